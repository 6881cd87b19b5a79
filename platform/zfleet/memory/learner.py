"""Memory of a learner: a micro-batch forward and backward, and what Adam keeps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from zfleet.memory.table import Part
from zfleet.memory.trace import TracedBase
from zfleet.models.completions import Row, micro_batches, rows_of_prompt

_SHORT_ANSWER = 8
"""Tokens of the short answers that are tried beside the longest: of these more share a prompt in one micro-batch."""

_COPIES = 8
"""Numbers that are kept for each trained one: p, its gradient and their sum, Adam's two means, the best p, and what a
checkpoint copies."""


@dataclass(frozen=True)
class Samples:
    """What a worker learns from in one step.

    Attributes:
        prompts: Prompts of all its experts.
        each: Samples of each prompt.
        prompt: Tokens of the longest prompt.
        answer: Tokens of the longest answer.
        experts: Experts that learn side by side.
        divergence: Whether the divergence from the base is computed.
    """

    prompts: int
    each: int
    prompt: int
    answer: int
    experts: int = 1
    divergence: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of the longest sample."""
        return self.prompt + self.answer


class LearnerMemory:
    """What learning takes on a base, as a function of the size of a micro-batch; each size is traced once."""

    def __init__(self, base: TracedBase, samples: Samples) -> None:
        self._base = base
        self._samples = samples
        self._traced = lru_cache(None)(self._trace)

    def activations(self, tokens: int, recompute: bool) -> int:
        """Return the bytes of a micro-batch, forward and backward, logits included.

        Args:
            tokens: The most tokens of a micro-batch; one sample alone may have more.
            recompute: Whether decoder layers run again in the backward pass.
        """
        return self._traced(tokens, recompute)

    @property
    def optimizer(self) -> int:
        """Bytes that the trained numbers take, with all that is kept for each."""
        return _COPIES * 4 * self._base.sizes.directions * self._samples.experts

    def parts(self, tokens: int, recompute: bool) -> list[Part]:
        """List the parts of a learner."""
        again = ", layers computed again" if recompute else ""
        return [
            Part("optimizer", self.optimizer, f"{_COPIES} x 4 B for each trained number"),
            Part(
                "a micro-batch, forward and backward",
                self.activations(tokens, recompute),
                f"traced: {tokens} tokens{again}",
                "learning",
            ),
        ]

    def _trace(self, tokens: int, recompute: bool) -> int:
        samples = self._samples
        answers = {samples.answer, min(samples.answer, _SHORT_ANSWER)}
        return max(
            self._base.step_bytes(rows, experts=samples.experts, divergence=samples.divergence, recompute=recompute)
            for rows in (self._largest(tokens, answer) for answer in answers)
        )

    def _largest(self, tokens: int, answer: int) -> list[Row]:
        """Return the rows of the largest micro-batch if all prompts are the longest, and all answers have this length.

        Packed as the learner packs them (``zfleet.rl.micro_batches``).
        """
        samples = self._samples
        shared = rows_of_prompt(self._base.cost, samples.prompt, [answer] * samples.each, tokens)
        row = [Row((0,) * samples.prompt, ((0,) * answer,) * len(some)) for some in shared]
        rows = row * samples.prompts
        packed = micro_batches([one.length for one in rows], tokens)
        return max(([rows[place] for place in some] for some in packed), key=lambda some: sum(r.length for r in some))
