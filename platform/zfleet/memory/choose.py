"""The size of micro-batches, and whether layers run again in the backward pass, chosen by the memory there is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Literal

from zfleet.config.learner import LARGEST_MICRO_BATCH
from zfleet.memory.chosen import Chosen
from zfleet.memory.learner import LearnerMemory

USEFUL_BYTES = 2**30
"""On a CPU, activations beyond this bring no speed (docs/training.md has the measurement), unless the micro-batch has
fewer than ``ENOUGH_TOKENS`` tokens."""

ENOUGH_TOKENS = 256
"""From here on the time of a token hardly depends on the size of a micro-batch."""

SCARCE_TOKENS = 128
"""Below, small micro-batches cost more than the third that computing layers again costs in larger ones."""

SIZES = tuple(sorted({LARGEST_MICRO_BATCH >> shift for shift in range(8)} | {6144 >> shift for shift in range(7)}))
"""The sizes that `auto` chooses from: powers of two, and those half-way between."""


def choose(
    memory: LearnerMemory, tokens: int | Literal["auto"], recompute: bool | Literal["auto"], left: int, on_cpu: bool
) -> Chosen:
    """Replace `auto` by the largest micro-batch that fits and is useful, with recomputation where that wins.

    It wins where one sample would not fit without it, or where micro-batches would have fewer than ``SCARCE_TOKENS``
    tokens. If nothing fits, the smallest is chosen: whoever compares the sum with the memory refuses it.

    Args:
        memory: Of the learner.
        tokens, recompute: As the spec has them.
        left: Bytes that are left for activations.
        on_cpu: Whether the base computes on a CPU.
    """

    def fits(size: int, again: bool) -> bool:
        return memory.activations(size, again) <= left

    def useful(size: int, again: bool) -> bool:
        few = not on_cpu or size <= ENOUGH_TOKENS
        return fits(size, again) and (few or memory.activations(size, again) <= USEFUL_BYTES)

    if tokens != "auto":
        return Chosen(tokens, not fits(tokens, False) and fits(tokens, True) if recompute == "auto" else recompute)
    if recompute != "auto":
        return Chosen(_largest(lambda size: useful(size, recompute)), recompute)
    kept = _largest(lambda size: useful(size, False))
    if fits(kept, False) and kept >= SCARCE_TOKENS:
        return Chosen(kept, False)
    again = _largest(lambda size: useful(size, True))
    return Chosen(again, True) if again > kept or not fits(kept, False) else Chosen(kept, False)


def _largest(takes: Callable[[int], bool]) -> int:
    """Return the largest of ``SIZES`` that is taken, given that more tokens never need less; else the smallest."""
    first_refused = bisect_left(SIZES, True, key=lambda size: not takes(size))
    return SIZES[max(first_refused - 1, 0)]
