"""What all sides of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hetero.base import CONTEXT, Shape
from hetero.client import Load
from zfleet.svf.zvector import ZVector

BATCH_TOKENS = 2048
"""The most tokens in one step, on both sides."""

CACHE_GIB = 0.25
"""Memory of each engine's key-value cache; 64 requests of 128 tokens need a quarter of it."""

LORA_RANK = 16
DELTA_RANK = 64
DELTA_ERROR = 1e-3


@dataclass(frozen=True)
class Settings:
    """The base, the load, and the sizes that engines are opened with.

    Attributes:
        shape: Dimensions of the base.
        folder: Where the base lies.
        scratch: A folder for adapters, emptied at the end.
        load: What a sample asks for.
        requests: Of one sample.
        experts: Trained on the base; random ones if there are none.
    """

    shape: Shape
    folder: Path
    scratch: Path
    load: Load
    requests: int
    experts: tuple[ZVector, ...] = ()

    @property
    def max_length(self) -> int:
        """Prompt and answer, in tokens."""
        return min(CONTEXT, self.load.prompt_tokens + self.load.answer_tokens)
