"""The candidates of a search and their answers. Equal points are one candidate, and no sample is answered twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zfleet.search.method import Score
from zfleet.search.objective import Measured, Objective
from zfleet.search.plan import Tried
from zfleet.search.space import Points


@dataclass
class _Candidate:
    point: Points
    generation: int
    answers: dict[int, NDArray[np.float64]] = field(default_factory=dict)


class Candidates:
    """All points that were tried.

    Args:
        objective: Scores answers.
        shots: How many samples, the first ones, are shots.
    """

    def __init__(self, objective: Objective, shots: int) -> None:
        self._objective = objective
        self._shots = range(shots)
        self._all: dict[bytes, _Candidate] = {}

    def missing(self, points: Points, samples: Sequence[int], generation: int) -> tuple[Points, list[tuple[int, ...]]]:
        """Say what has to be answered for these points to have answered these samples.

        Args:
            points: [n, dim].
            samples: Their numbers.
            generation: Of points that are new.

        Returns:
            [m, dim] different points with something to answer, and what each has to answer.
        """
        asked: dict[bytes, tuple[int, ...]] = {}
        for point in points:
            one = self._all.setdefault(point.tobytes(), _Candidate(point.copy(), generation))
            left = tuple(sample for sample in samples if sample not in one.answers)
            if left:
                asked[point.tobytes()] = left
        return np.array([self._all[key].point for key in asked]), list(asked.values())

    def take(self, points: Points, samples: Sequence[Sequence[int]], measured: Sequence[Measured]) -> None:
        """Keep the answers of points: of each [its samples, metrics]."""
        for point, numbers, rows in zip(points, samples, measured, strict=True):
            self._all[point.tobytes()].answers.update(zip(numbers, rows, strict=True))

    def rows(self, point: Points, samples: Sequence[int]) -> Measured:
        """Return what a point answered on samples: [samples, metrics]."""
        answers = self._all[point.tobytes()].answers
        return np.stack([answers[sample] for sample in samples])

    def scores(self, points: Points, samples: Sequence[int]) -> list[Score]:
        """Score points on samples that all of them answered."""
        return [self._objective.score(self.rows(point, samples)) for point in points]

    def score_so_far(self, point: Points) -> Score:
        """Score a point on the shots that it answered."""
        return self._objective.score(self.rows(point, self._answered(self._all[point.tobytes()])))

    def best(self, count: int, among: Iterable[int], base_too: bool) -> Points:
        """Return the best points that answered every shot and mix only some experts: [count or fewer, dim].

        Args:
            count: The most to return.
            among: The numbers of a point that may differ from 0.
            base_too: Whether the base, all zeros, may be one of them.
        """
        allowed = set(among)
        whole = [
            (self._objective.score(np.stack([one.answers[sample] for sample in self._shots])), one.point)
            for one in self._all.values()
            if all(sample in one.answers for sample in self._shots)
            and allowed.issuperset(np.flatnonzero(one.point).tolist())
            and (base_too or one.point.any())
        ]
        ranked = sorted(whole, key=lambda pair: pair[0], reverse=True)
        return np.stack([point for _, point in ranked[:count]])

    def tried(self) -> list[Tried]:
        """List the candidates that answered shots, in the order in which they were tried first."""
        return [
            Tried(one.generation, one.point, self.score_so_far(one.point), len(self._answered(one)))
            for one in self._all.values()
            if self._answered(one)
        ]

    def _answered(self, one: _Candidate) -> list[int]:
        return [sample for sample in self._shots if sample in one.answers]
