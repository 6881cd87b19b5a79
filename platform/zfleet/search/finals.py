"""Choosing the winner among finalists on fresh samples, and what to expect of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zfleet.search.method import Score
from zfleet.search.objective import Measured, Objective


def choose(objective: Objective, fresh: Measured, before: Sequence[Score]) -> int:
    """Return the place of the best finalist; of those that are equal on the fresh samples, the better before.

    Args:
        objective: What they are compared by.
        fresh: [finalists, samples, metrics], of samples that no candidate was searched on; there may be none.
        before: The finalists' scores on the shots.
    """
    scores = [objective.score(rows) if rows.size else () for rows in fresh]
    return max(range(len(before)), key=lambda place: (scores[place], before[place]))


def expect(objective: Objective, fresh: Measured, before: Sequence[Score]) -> Score:
    """Estimate what the winner will score on samples that it was not chosen by.

    The winner's own score is the largest of several, and too high. So each sample is answered by the finalist that the
    other samples choose (leave one out; Varma and Simon 2006, "Bias in error estimation when using cross-validation
    for model selection"). That is what one sample fewer to choose by would give, without a part of the luck.

    Args:
        objective, before: As for ``choose``.
        fresh: As for ``choose``; one sample or more.
    """
    samples = range(fresh.shape[1])
    chosen = [choose(objective, np.delete(fresh, sample, axis=1), before) for sample in samples]
    return objective.score(np.stack([fresh[place, sample] for sample, place in zip(samples, chosen, strict=True)]))
