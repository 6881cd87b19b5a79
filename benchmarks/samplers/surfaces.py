"""What is optimised: two textbook functions, and scores of recorded mixtures on a few shots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from samplers.recording import POINTS_A_SIDE, Array, Table, recorded_table

SHOTS = 10

_TIE = 1e-3
"""Weight of the log-likelihood beside the accuracy, whose steps are 1 / SHOTS: it decides between equal accuracies."""


@dataclass(frozen=True)
class Problem:
    """What one seed optimises.

    Attributes:
        score: Of a point [dim]: what the sampler is told; higher is better.
        judge: Of the point that was chosen, what is reported.
    """

    score: Callable[[Array], float]
    judge: Callable[[Array], Mapping[str, float]]


@dataclass(frozen=True)
class Surface:
    """A family of problems over a box.

    Attributes:
        title: For the report.
        dim: Coordinates.
        low, high: Of each.
        smooth: Whether close points have close scores.
        problem: Of a seed; the same for all samplers.
    """

    title: str
    dim: int
    low: float
    high: float
    smooth: bool
    problem: Callable[[int], Problem]


def _sphere(seed: int) -> Problem:
    # Not at the middle of the box, where some samplers begin.
    optimum = np.random.default_rng(seed).uniform(-4, 4, size=10)
    return _of_loss(lambda x: float(((x - optimum) ** 2).sum()))


def _rosenbrock(seed: int) -> Problem:
    """Rosenbrock's valley (The Computer Journal 3, 1960), in the usual form for several dimensions; least at ones."""
    return _of_loss(lambda x: float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()))


def _of_loss(loss: Callable[[Array], float]) -> Problem:
    return Problem(lambda x: -loss(x), lambda x: {"loss": loss(x)})


def few_shot(table: Table, seed: int, ties: bool) -> Problem:
    """Score recorded mixtures on a draw of shots; judge them by all other prompts.

    A point is the recorded mixture that is nearest: its score is one that was really measured.

    Args:
        ties: Let the log-likelihood of correct answers decide between equal accuracies.
    """
    order = np.random.default_rng(seed).permutation(table.right.shape[1])
    shots, others = order[:SHOTS], order[SHOTS:]

    def score(point: Array) -> float:
        place = nearest(point)
        likelihood = float(table.likelihood[place, shots].mean()) if ties else 0.0
        return float(table.right[place, shots].mean()) + _TIE * likelihood

    def judge(point: Array) -> Mapping[str, float]:
        place = nearest(point)
        true = float(table.right[place, others].mean())
        return {"true": true, "optimism": float(table.right[place, shots].mean()) - true}

    return Problem(score, judge)


def nearest(point: Array) -> int:
    """Return the row of the table that is nearest to a point of the unit cube."""
    coordinates = np.rint(point * (POINTS_A_SIDE - 1)).astype(int)
    return int(np.ravel_multi_index(tuple(coordinates), (POINTS_A_SIDE,) * len(point)))


SURFACES = {
    "sphere": Surface("sphere, 10 dimensions in [-5, 5]", 10, -5.0, 5.0, True, _sphere),
    "rosenbrock": Surface("Rosenbrock, 5 dimensions in [-2, 2]", 5, -2.0, 2.0, True, _rosenbrock),
    "shots": Surface(f"{SHOTS} shots", 3, 0.0, 1.0, False, lambda seed: few_shot(recorded_table(), seed, ties=False)),
    "shots and ties": Surface(
        f"{SHOTS} shots, ties by log-likelihood",
        3,
        0.0,
        1.0,
        False,
        lambda seed: few_shot(recorded_table(), seed, ties=True),
    ),
}
