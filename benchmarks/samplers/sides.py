"""The samplers that are compared, each in its best form for batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import optuna
from optuna.samplers import BaseSampler

from zfleet.search import CemSampler

BATCH = 32
"""What an engine answers at once: one population of the cross-entropy method."""

EVALUATIONS = 256
"""Of every search."""

FEW_EVALUATIONS = 96
"""What a sampler has found is reported after so many, too."""


@dataclass(frozen=True)
class Side:
    """One sampler.

    Attributes:
        make: Of a seed, and of whether the same point always gets the same score and close points close ones.
        batch: How many are asked for before they are told.
        first: How many are asked for in the first batch, if it is another one.
    """

    make: Callable[[int, bool], BaseSampler]
    batch: int = BATCH
    first: int | None = None

    def batches(self) -> Iterator[int]:
        """Yield the size of each batch; together they are ``EVALUATIONS``."""
        left = EVALUATIONS
        size = self.first or self.batch
        while left:
            yield min(size, left)
            left -= min(size, left)
            size = self.batch


def _cem(seed: int, smooth: bool) -> BaseSampler:
    return CemSampler(seed=seed)


def _cmaes(seed: int, smooth: bool) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, popsize=BATCH)


def _small_cmaes(seed: int, smooth: bool) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, popsize=8)


def _tpe(seed: int, smooth: bool) -> BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _gp(seed: int, smooth: bool) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, deterministic_objective=smooth)


def _random(seed: int, smooth: bool) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


SIDES = {
    "cem": Side(_cem),
    # Without a complete trial Optuna's CMA-ES knows no space and samples at random: one trial, not a batch.
    "cmaes": Side(_cmaes, first=1),
    # Smaller populations than an engine's batch, about CMA-ES's own for 3 to 10 dimensions.
    "cmaes 8": Side(_small_cmaes, batch=8, first=1),
    "tpe": Side(_tpe),
    "gp": Side(_gp),
    "random": Side(_random),
}
