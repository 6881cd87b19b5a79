"""The problem of a search: find the mixture of experts that answers a few shots of a task best."""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet.errors import JobError, SpecError, WrongBase
from zfleet.rewards.grading import reward_identity
from zfleet.search.cross_entropy import CrossEntropy
from zfleet.svf.layout import layer_of
from zfleet.svf.zvector import ZVector
from zfleet.tasks.fit import data_digest
from zfleet.tasks.task import Sample, Task


@dataclass(frozen=True)
class SearchSettings:
    """How to search; the same for all searches of one call.

    Attributes:
        population: Candidates in each generation.
        generations: How many.
        elites: The fraction that the next generation is fitted to.
        per_layer: An alpha for every layer of each expert.
        trials_per_generation: Chunks of a population; each is a Tune trial and one engine batch.
        engine: The engine of every actor.
        resources: What every actor gets.
        seed: Of the sampling of candidates.
    """

    population: int = 32
    generations: int = 8
    elites: float = 0.2
    per_layer: bool = False
    trials_per_generation: int = 2
    engine: EngineSpec = field(default_factory=lambda: EngineSpec(slots=192))
    resources: ResourceSpec = field(default_factory=ResourceSpec)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.trials_per_generation <= self.population:
            raise SpecError(
                f"trials_per_generation is {self.trials_per_generation} for a population of {self.population}",
                "give from 1 to the size of the population",
            )


@dataclass(frozen=True)
class SearchProblem:
    """One search.

    Attributes:
        name: Names the search in progress, results and errors.
        experts: {name: z}, all of the same base and factors.
        task: Its train split is exactly the shots; see ``shots_of``.
    """

    name: str
    experts: Mapping[str, ZVector]
    task: Task

    def __post_init__(self) -> None:
        if not self.experts or not self.task.train:
            raise SpecError(
                f"search {self.name} has {len(self.experts)} experts and {len(self.task.train)} shots",
                "give at least one of each",
            )
        if len({(z.base, z.factors) for z in self.experts.values()}) > 1:
            raise WrongBase(
                f"the experts of search {self.name} belong to different bases or factors",
                "mix only experts that share one base and its factors",
            )

    @property
    def layers(self) -> int:
        """Transformer layers that the experts' matrices are of."""
        first = next(iter(self.experts.values()))
        return 1 + max(layer_of(matrix) for matrix in first.values)

    def cross_entropy(self, settings: SearchSettings) -> CrossEntropy:
        """Make the search, at its start.

        Raises:
            SpecError: The population is too small for the experts.
        """
        return CrossEntropy(
            len(self.experts),
            layers=self.layers if settings.per_layer else None,
            population=settings.population,
            elites=settings.elites,
            seed=settings.seed,
        )


def shots_of(task: Task, shots: int, seed: int) -> Task:
    """Select ``shots`` training prompts of a task, without a test side: all that a search may see.

    Raises:
        JobError: The training split has fewer distinct prompts.
    """
    # Small families repeat prompts; a shot that came twice would count twice.
    digests = array("Q", (_digest(sample) for sample in task.train))
    distinct = np.sort(np.unique(np.frombuffer(digests, np.uint64), return_index=True)[1]).tolist() if digests else []
    if len(distinct) < shots:
        raise JobError(
            f"task {task.name} has {len(distinct)} distinct training prompts, {shots} shots were asked for",
            "lower `shots`, or give the task more prompts",
        )
    drawn = random.Random(seed).sample(distinct, shots)
    return replace(task, train=tuple(task.train[place] for place in drawn), test=())


def _digest(sample: Sample) -> int:
    said = hashlib.sha256(json.dumps([sample.prompt, sample.answer]).encode()).digest()
    return int.from_bytes(said[:8], "big")


def problems_digest(problems: Mapping[str, SearchProblem], settings: SearchSettings, code: str) -> str:
    """Compute sha256 over everything that the outcome depends on: only a run with the same digest may be resumed.

    Resources and engine sizes are left out: they change how fast it goes, not where to.
    """
    engine = settings.engine
    state = {
        "code": code,
        "settings": [
            settings.population,
            settings.generations,
            settings.elites,
            settings.per_layer,
            settings.trials_per_generation,
            settings.seed,
        ],
        "engine": [engine.kind, engine.vllm.form.model_dump()],
        "problems": [
            [
                name,
                [[expert, z.digest] for expert, z in problem.experts.items()],
                data_digest(problem.task),
                [problem.task.name, problem.task.max_tokens, list(problem.task.stop), problem.task.template.text],
                reward_identity(problem.task.reward),
            ]
            for name, problem in problems.items()
        ],
    }
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()
