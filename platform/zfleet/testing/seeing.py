"""A vision-language base opened for tests, beside Hugging Face's own model of it."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import SamplingParams
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.base import load_base
from zfleet.models.matrices import target_matrices
from zfleet.models.svf_model import SvfModel
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors
from zfleet.svf.linear import merge_into
from zfleet.svf.zvector import ZVector
from zfleet.testing.tiny_vision import save_tiny_vision

NEW_TOKENS = 12
GREEDY = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)


@dataclass(frozen=True)
class Seeing:
    """A vision-language base, and Hugging Face's model to compare it with.

    Attributes:
        folder: Folder of the base.
        model: The base in SVF form.
        engine: An engine on that model.
        plain: Hugging Face's model, with plain linears.
        factors: Factors of the language tower.
    """

    folder: Path
    model: SvfModel
    engine: SyncEngine
    plain: nn.Module
    factors: Factors

    def merged(self, z: ZVector) -> nn.Module:
        """Return Hugging Face's model with W' = U diag(s * z) Vh in its language tower."""
        merged: Any = copy.deepcopy(self.plain)
        tower = nn.Module()
        tower.model = merged.model.language_model
        merge_into(tower, dict(self.factors.matrices), dict(z.values))
        return merged  # type: ignore[no-any-return]

    def generated(self, model: Any, prompt: str, images: Sequence[bytes]) -> tuple[int, ...]:
        """Answer with ``generate`` of Hugging Face's model, with the parameters of ``GREEDY``."""
        processor = AutoProcessor.from_pretrained(self.folder, backend="pil")
        decoded = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
        inputs = processor(text=prompt, images=decoded or None, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        more = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "eos_token_id": None}
        return tuple(model.generate(**inputs, do_sample=False, **more)[0, length:].tolist())


@contextmanager
def open_seeing(kind: Literal["llava", "llava_next"], tower: Path, root: Path) -> Iterator[Seeing]:
    """Make a tiny vision-language model around the base in ``tower``, saved below ``root``."""
    folder = save_tiny_vision(kind, tower, root / "eyes")
    base = load_base(folder)
    factors = FactorCache(root / "factors").get(target_matrices(folder, base.fingerprint))
    plain = AutoModelForImageTextToText.from_pretrained(folder).eval()
    model = SvfModel(base, factors)
    with SyncEngine(TorchEngine(model, EngineSpec(slots=64))) as engine:
        yield Seeing(folder, model, engine, plain, factors)


def noise(seed: int, width: int = 40, height: int = 30) -> bytes:
    """Draw a PNG of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
