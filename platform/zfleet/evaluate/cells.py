"""A cell of the matrix: one way of adapting on one task, with one draw of shots and one seed, prompt by prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zfleet.config.names import Alpha

WayKind = Literal["base", "prompt", "expert", "uniform", "best-single", "search", "dispatcher", "oracle", "lora"]
"""How a way chooses the z of each prompt."""

Mixture = Mapping[str, Alpha]
"""{expert: alpha}; empty: the base."""

Numbers = NDArray[np.float64]


def numbers_of(alpha: Alpha) -> tuple[float, ...]:
    """Return the numbers of an alpha: one, or one for each layer, matrix or kind of matrix."""
    if isinstance(alpha, Mapping):
        return tuple(alpha.values())
    return alpha if isinstance(alpha, tuple) else (alpha,)


def mixture_from(text: str) -> Mixture:
    """Read a mixture that was written as JSON, in which the alphas of layers are a list."""
    return {expert: tuple(alpha) if isinstance(alpha, list) else alpha for expert, alpha in json.loads(text).items()}


@dataclass(frozen=True)
class CellKey:
    """Which cell.

    Attributes:
        task: The task's key in the spec.
        way: The way's name.
        shots: How many it saw; None if it sees none.
        draw: Which draw of shots; None if it sees none.
        seed: Of its search or of its sampled answers; None if nothing of it is random.
    """

    task: str
    way: str
    shots: int | None = None
    draw: int | None = None
    seed: int | None = None

    def __str__(self) -> str:
        parts = {"shots": self.shots, "draw": self.draw, "seed": self.seed}
        said = ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
        return f"{self.way} on {self.task}" + (f" ({said})" if said else "")


@dataclass(frozen=True, eq=False)
class Cell:
    """The measurements of a cell, one of each for every test prompt.

    Attributes:
        key: Which cell.
        kind: Of the way.
        own_task: Whether the way is an expert trained on this task; None for other ways, or if that is unknown.
        rows: Digests of the prompts and their answers.
        clusters: What each prompt shares with others, such as a passage; None if prompts are independent.
        rewards: NaN for an answer that was not graded.
        tokens: Generated; NaN if that is not known.
        prompt_tokens: Read in the second pass; NaN likewise.
        seconds: Of the second pass: each answer's share of its batch's, by tokens; NaN likewise.
        first_tokens, first_seconds: Of the first pass, likewise; 0 without one.
        mixtures: Whose z answered.
        own: The expert of each prompt's kind as its fields say it; an empty text is the base, None is unknown.
        named: The expert that the first pass takes for the prompt's own; None without a first pass.
        confidences: Of the first pass that it is; NaN if it gave none.
    """

    key: CellKey
    kind: WayKind
    own_task: bool | None
    rows: Sequence[str]
    clusters: Sequence[str] | None
    rewards: Numbers
    tokens: Numbers
    prompt_tokens: Numbers
    seconds: Numbers
    first_tokens: Numbers
    first_seconds: Numbers
    mixtures: Sequence[Mixture]
    own: Sequence[str | None]
    named: Sequence[str | None]
    confidences: Numbers
