"""Which z of a run is kept: the best by validation, where there is any."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """What validations have found.

    Attributes:
        score: Mean reward of the best so far; None before the first.
        step: Steps the best had learned.
        p: The best: [P].
        worse: Validations since that found nothing better.
    """

    score: float | None = None
    step: int = 0
    p: Tensor | None = None
    worse: int = 0

    def seen(self, score: float, step: int, p: Tensor) -> Selection:
        """After one more validation. Of equals the first stays: it is the nearest to the base."""
        if self.score is not None and score <= self.score:
            return Selection(self.score, self.step, self.p, self.worse + 1)
        return Selection(score, step, p.detach().clone())
