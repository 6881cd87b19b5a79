"""Searches as ways of an evaluation: those of one method and seed run together, over all tasks, shots and draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from zfleet.errors import JobError
from zfleet.evaluate.cells import CellKey, Mixture
from zfleet.evaluate.traces import Candidate, Generation, SearchTrace
from zfleet_jobs.evaluate.prepared import Prepared
from zfleet_jobs.search.mixtures import FoundMixture
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.settings import SearchSettings
from zfleet_jobs.task_shipping import by_value

FOLDER = "searches"

Search = Callable[[Sequence[SearchProblem], SearchSettings, Path, str], Sequence[FoundMixture]]
"""Runs searches: problems, settings, storage and the beginning of the folder's name, as ``search_mixtures``."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        mixture: Answers the test.
        trace: How it was found.
    """

    mixture: Mixture
    trace: SearchTrace


def search_all(prepared: Prepared, search: Search, storage: Path) -> dict[CellKey, Found]:
    """Run every search of an evaluation; one that finished before is not run again.

    A search sees the shots of its draw and, for its finals, prompts of the selection; never the test.

    Args:
        prepared: The evaluation.
        search: Runs those that share their settings.
        storage: Where evaluations keep their files, on this machine.

    Raises:
        JobError: The selection has too few prompts for the finals.
        ZfleetError: As ``search_mixtures``.
    """
    spec = prepared.spec
    found: dict[CellKey, Found] = {}
    for way, seed in product(spec.searches, spec.seeds):
        # Settings that depend on the number of shots, such as racing's blocks, are other settings.
        for shots in spec.shots:
            keys = [CellKey(task, way, shots, draw, seed) for task in spec.tasks for draw in spec.draws]
            problems = [_problem(prepared, key) for key in keys]
            settings = SearchSettings.of(spec.search(way, next(iter(spec.tasks)), shots, 0, seed))
            results = search(problems, settings, storage / FOLDER, f"{way}-{shots}-{seed}")
            found |= {key: _found(key, result) for key, result in zip(keys, results, strict=True)}
    return found


def _problem(prepared: Prepared, key: CellKey) -> SearchProblem:
    assert key.shots is not None
    assert key.draw is not None
    assert key.seed is not None
    parts = prepared.splits[key.task]
    wanted = prepared.spec.search(key.way, key.task, key.shots, key.draw, key.seed).finals
    if len(parts.selection) < wanted:
        raise JobError(
            f"search {key.way} chooses by {wanted} prompts of the selection, task {key.task} has "
            f"{len(parts.selection)} there",
            f"lower searches.{key.way}.selection, raise selection_samples, or give the task more prompts",
        )
    task = by_value(parts.few_shot(key.shots, key.draw))
    prior = prepared.priors.get(key.way)
    return SearchProblem(f"{key.task}-{key.draw}", prepared.experts, task, parts.selection[:wanted], prior)


def _found(key: CellKey, result: FoundMixture) -> Found:
    experts = list(result.alphas)
    candidates = tuple(
        Candidate(
            alphas=dict(zip(experts, one.point.reshape(len(experts), -1).mean(axis=1).tolist(), strict=True)),
            value=one.score[0],
            shots=one.shots,
        )
        for one in result.tried
    )
    history = tuple(Generation(one.best, one.mean, one.evaluations) for one in result.history)
    trace = SearchTrace(key, result.score.value, result.evaluations, result.seconds, history, candidates)
    return Found(result.alphas, trace)
