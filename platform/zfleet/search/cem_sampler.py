"""The cross-entropy method as a sampler for Optuna.

The file imports NumPy, Optuna and its neighbour ``elites``: the two files work without zfleet.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

# Relative, so that the two files can be a package of OptunaHub as they are.
from .elites import ELITES, MEAN, POPULATION, STD, STD_FLOOR, Array, draw, elite_count, refit

GENERATION = "cem:generation"
"""System attribute of a trial: the generation that it was drawn for, counted from 0."""

COUNTED_IN = "cem:counted_in"
"""System attribute: the generation that it counts in, if its own was complete when it ended."""

BEST = "cem:best"
"""System attribute: the number of the trial whose values it has, as the first candidate of its generation."""


class CemSampler(BaseSampler):
    """Sample each generation from a Gaussian that is fitted to the best trials of the generation before.

    Coordinates are independent and scaled to [0, 1]: the logarithm if a distribution has ``log``, with half a step of
    margin if it has steps. Every later generation begins with the values of the best trial so far. A category is
    drawn with the frequency that it has among the elites (Rubinstein 1999), mixed with ``std_floor`` of the uniform
    distribution. Parameters that only some trials have are fitted to the elites that have them.

    A generation is over when ``population`` of its trials are complete. All that the sampler knows is in the study:
    a generation number is a system attribute of each trial, so that another process, or several processes on one
    storage, continue the same search.

    - Trials that are asked for before a generation is over belong to it, so that a population can be asked for and
      told at once. Whoever asks when it is asked for in full gets a further candidate of it.
    - A trial that ends later counts in the generation that is open then: no evaluation is lost.
    - Failed and pruned trials count in none, and are replaced.
    - Trials of other samplers count in the first generation.

    A parameter's value is a function of the seed, the number of its trial, the parameter's name, and the trials that
    are complete. With a seed, trials are the same from run to run where they run one after another, and where whole
    populations are asked for and told, the same as one after another. An instance is for one study.

    Args:
        population: Complete trials of a generation.
        elites: The fraction that the next generation is fitted to.
        std_floor: No standard deviation falls below it, on the scale from 0 to 1.
        seed: Of all sampling; drawn by the system if None.

    Raises:
        ValueError: A setting is out of range. When sampling: the study has several objectives.
    """

    def __init__(
        self,
        *,
        population: int = POPULATION,
        elites: float = ELITES,
        std_floor: float = STD_FLOOR,
        seed: int | None = None,
    ) -> None:
        if population < 2:
            raise ValueError(f"population is {population}: give 2 or more")
        if not 0 < elites <= 1:
            raise ValueError(f"elites is {elites}: give a fraction above 0 and at most 1")
        if not 0 <= std_floor <= 1:
            raise ValueError(f"std_floor is {std_floor}: give 0 to 1")
        self.population = population
        self.elites = elites
        self.std_floor = std_floor
        self._seed = np.random.SeedSequence(seed).entropy
        self._space = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        """Sample with another seed, drawn by the system."""
        self._seed = np.random.SeedSequence().entropy

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Give the trial its generation."""
        self._place(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that all complete trials have."""
        return self._space.calculate(study)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample all parameters of the space.

        Raises:
            ValueError: The study has several objectives.
        """
        self._raise_error_if_multi_objective(study)
        return self._sample(study, trial, search_space) if search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample one parameter, in the same way: coordinates are independent.

        Raises:
            ValueError: The study has several objectives.
        """
        self._raise_error_if_multi_objective(study)
        return self._sample(study, trial, {param_name: param_distribution})[param_name]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Count a trial that ends late in the generation that is open now."""
        if trial.constraints:
            warnings.warn("CemSampler does not use constraints: they have no effect on it", stacklevel=2)
        if state != TrialState.COMPLETE:
            return
        generation = self._open_generation(_complete(study))
        if generation > _generation(trial):
            study._storage.set_trial_system_attr(trial._trial_id, COUNTED_IN, generation)

    def _open_generation(self, complete: Sequence[FrozenTrial]) -> int:
        sizes = Counter(map(_generation, complete))
        return next(generation for generation in itertools.count() if sizes[generation] < self.population)

    def _place(self, study: Study, trial: FrozenTrial) -> tuple[int, int | None]:
        """Return the trial's generation, and the number of the trial whose values it repeats; chosen at the first call.

        They are stored: between two parameters of a trial another one may end.
        """
        attributes = study._storage.get_trial_system_attrs(trial._trial_id)
        if GENERATION in attributes:
            return attributes[GENERATION], attributes.get(BEST)
        generation = self._open_generation(_complete(study))
        study._storage.set_trial_system_attr(trial._trial_id, GENERATION, generation)
        # An enqueued trial has values of its own.
        if generation == 0 or "fixed_params" in attributes or _has_begun(study, generation):
            return generation, None
        best = _ranked(study, _complete(study))[0].number
        study._storage.set_trial_system_attr(trial._trial_id, BEST, best)
        return generation, best

    def _sample(self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        generation, repeated = self._place(study, trial)
        complete = _complete(study)
        transform = _SearchSpaceTransform(space, transform_0_1=True)
        mean, std = self._fit(study, [t for t in complete if _generation(t) == generation - 1], space, transform)
        point = np.empty(len(mean))
        for (name, distribution), columns in zip(space.items(), transform.column_to_encoded_columns, strict=True):
            rng = np.random.default_rng([self._seed, trial.number, *name.encode()])
            if isinstance(distribution, CategoricalDistribution):
                point[columns] = self._one_hot(rng, mean[columns])
            else:
                point[columns] = draw(rng, mean[columns], std[columns], 1)[0]
        values = transform.untransform(point)
        if repeated is not None:
            best = next(t for t in complete if t.number == repeated)
            values |= {name: best.params[name] for name in space if best.distributions.get(name) == space[name]}
        # At the upper end Optuna's transform gives a NumPy number.
        return {name: d.to_external_repr(d.to_internal_repr(values[name])) for name, d in space.items()}

    def _fit(
        self,
        study: Study,
        scored: Sequence[FrozenTrial],
        space: dict[str, BaseDistribution],
        transform: _SearchSpaceTransform,
    ) -> tuple[Array, Array]:
        """Fit mean and standard deviation, [columns] each, to the elites of a generation that have the parameters."""
        elites = _ranked(study, scored)[: elite_count(self.elites, len(scored))]
        known = [t for t in elites if all(t.distributions.get(name) == d for name, d in space.items())]
        if not known:
            columns = len(transform.bounds)
            return np.full(columns, MEAN), np.full(columns, STD)
        return refit(np.array([transform.transform(t.params) for t in known]), self.std_floor)

    def _one_hot(self, rng: np.random.Generator, frequencies: Array) -> Array:
        count = len(frequencies)
        shares = (1 - self.std_floor) * frequencies / frequencies.sum() + self.std_floor / count
        chosen: Array = np.eye(count)[rng.choice(count, p=shares)]
        return chosen


def _complete(study: Study) -> list[FrozenTrial]:
    return study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,), use_cache=True)


def _generation(trial: FrozenTrial) -> int:
    attributes = trial.system_attrs
    return int(attributes.get(COUNTED_IN, attributes.get(GENERATION, 0)))


def _has_begun(study: Study, generation: int) -> bool:
    return any(
        trial.system_attrs.get(GENERATION) == generation and BEST in trial.system_attrs
        for trial in study._get_trials(deepcopy=False, use_cache=True)
    )


def _ranked(study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Sort the best first; of equal values the earlier trial comes first."""
    return sorted(trials, key=_value, reverse=study.direction == StudyDirection.MAXIMIZE)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value
