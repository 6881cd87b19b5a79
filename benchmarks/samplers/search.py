"""One sampler on one surface with one seed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, FloatDistribution

from samplers.sides import EVALUATIONS, FEW_EVALUATIONS, SIDES
from samplers.surfaces import SURFACES

Outcome = Mapping[int, Mapping[str, float]]
"""{evaluations: what is reported of the point that had the best score after so many}."""


def prepare() -> None:
    """Prepare this process: one thread, and nothing said of each trial or of what Optuna calls experimental."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def search(surface_name: str, side_name: str, seed: int) -> Outcome:
    """Ask for a batch, score it, tell it, until all evaluations are used.

    Args:
        surface_name: Of ``SURFACES``.
        side_name: Of ``SIDES``.
        seed: Of the problem and of the sampler.
    """
    surface, side = SURFACES[surface_name], SIDES[side_name]
    problem = surface.problem(seed)
    space: dict[str, BaseDistribution] = {
        f"x{place}": FloatDistribution(surface.low, surface.high) for place in range(surface.dim)
    }
    study = optuna.create_study(direction="maximize", sampler=side.make(seed, surface.smooth))
    points, scores = [], []
    for size in side.batches():
        trials = [study.ask(space) for _ in range(size)]
        for trial in trials:
            points.append(np.array([trial.params[name] for name in space]))
            scores.append(problem.score(points[-1]))
            study.tell(trial, scores[-1])
    return {budget: problem.judge(points[int(np.argmax(scores[:budget]))]) for budget in (FEW_EVALUATIONS, EVALUATIONS)}
