"""How to search; the same for all searches of one call."""

from __future__ import annotations

from dataclasses import dataclass, field

from zfleet.config.search import SearchMethodSpec, SearchSpec, SpaceSpec
from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet.errors import SpecError
from zfleet.search.method import Method
from zfleet.search.methods.cross_entropy import CrossEntropy
from zfleet.search.methods.random_search import RandomSearch
from zfleet.search.methods.reference import Reference
from zfleet.search.objective import LOG_LIKELIHOOD, OWN_LOG_LIKELIHOOD, Objective
from zfleet.search.space import Points, Space


@dataclass(frozen=True)
class SearchSettings:
    """Settings of searches.

    Attributes:
        population: Candidates in each generation.
        generations: How many.
        method: How candidates are drawn.
        space: Which mixtures may be tried.
        objective: What candidates are compared by.
        block: Shots between two comparisons of racing; None for no racing.
        keep: The experts that screening leaves; None for no screening.
        temperature: Of the answers.
        trials_per_generation: Chunks of a population; each is a Tune trial and one engine batch.
        engine: The engine of every actor.
        resources: What every actor gets.
        seed: Of the sampling of candidates.
        study: URL of the database of the Optuna studies; None for a file in the run's folder.
    """

    population: int = 32
    generations: int = 8
    method: SearchMethodSpec = field(default_factory=SearchMethodSpec)
    space: SpaceSpec = field(default_factory=SpaceSpec)
    objective: Objective = field(default_factory=Objective)
    block: int | None = None
    keep: int | None = None
    temperature: float = 0.0
    trials_per_generation: int = 2
    engine: EngineSpec = field(default_factory=lambda: EngineSpec(slots=192))
    resources: ResourceSpec = field(default_factory=ResourceSpec)
    seed: int = 0
    study: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.trials_per_generation <= self.population:
            raise SpecError(
                f"trials_per_generation is {self.trials_per_generation} for a population of {self.population}",
                "give from 1 to the size of the population",
            )

    @classmethod
    def of(cls, spec: SearchSpec) -> SearchSettings:
        """Take the settings from a spec."""
        own = spec.method.name == "reference"
        return cls(
            population=spec.population,
            generations=spec.generations,
            method=spec.method,
            space=spec.space,
            objective=Objective(spec.objective, OWN_LOG_LIKELIHOOD if own else LOG_LIKELIHOOD),
            block=spec.shots_in_a_block,
            keep=spec.screened,
            temperature=spec.temperature,
            trials_per_generation=spec.trials_per_generation,
            engine=spec.engine,
            resources=spec.resources,
            seed=spec.seed,
            study=spec.study,
        )

    def make_method(self, space: Space, mean: Points | None = None) -> Method:
        """Make the method for a space.

        Args:
            space: What it searches.
            mean: The first mean of `cem`, [1, dim]; None for its own. Optuna's samplers learn of such a point as of all
                that are told before the first population.

        Raises:
            SpecError: It does not take this space.
        """
        spec, population, seed = self.method, self.population, self.seed
        if spec.name == "cem":
            return CrossEntropy(
                space, population=population, elites=spec.elites, seed=seed, mean=mean, std_floor=spec.std_floor
            )
        if spec.name == "reference":
            return Reference(
                space,
                population=population,
                elites=spec.elites,
                seed=seed,
                ema=spec.ema,
                best_again=spec.best_again,
                ties=spec.ties,
            )
        if spec.name == "random":
            return RandomSearch(space, population=population, seed=seed)
        # Imported late: Optuna takes a second.
        from zfleet.search.methods.optuna_sampler import OptunaSampler

        return OptunaSampler(spec.name, space, population=population, seed=seed, objectives=len(self.objective.targets))

    def identity(self) -> list[object]:
        """Return what an outcome depends on, as plain data."""
        return [
            self.population,
            self.generations,
            self.method.model_dump(),
            # The dispatcher itself is part of each problem, whatever it is called.
            self.space.model_dump(exclude={"prior"}),
            [[dict(target) for target in self.objective.targets], self.objective.tie],
            self.block,
            self.keep,
            self.temperature,
            self.trials_per_generation,
            self.seed,
            [self.engine.kind, self.engine.vllm.form.model_dump()],
        ]
