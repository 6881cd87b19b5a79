"""Searching mixtures of experts that are at hand: several searches in one Ray Tune run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from zfleet.config.names import Alpha
from zfleet.errors import SpecError
from zfleet.models.bundle import BaseBundle
from zfleet.search.coefficients import alphas_of
from zfleet.search.cross_entropy import CrossEntropy, Generation
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet_cluster.fleet.actors import shared_fleet
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_jobs.search.finished import read_finished
from zfleet_jobs.search.problem import SearchProblem, SearchSettings, problems_digest
from zfleet_jobs.search.searcher import ChunkSearcher
from zfleet_jobs.search.trainable import SearchJob
from zfleet_jobs.search.tuning import new_searcher, run_tune


@dataclass(frozen=True)
class SearchTrial:
    """One Tune trial: a chunk of a population in one engine batch.

    Attributes:
        generation: Counted from 0.
        chunk: Which part of the population.
        candidates: How many it scored.
        actor: Id of the Ray actor that ran it.
        batch_rows: The most answers that grew in one engine step while it ran. In a fleet trials share steps, and
            it is the most of any step of the fleet until the trial's end.
        distinct_z: The most different z in one such step.
        seconds: Of its step.
        opened_seconds: Of opening the base (of a fleet's trial, the tokenizer), if the trial started its actor; else 0.
    """

    generation: int
    chunk: int
    candidates: int
    actor: str
    batch_rows: int
    distinct_z: int
    seconds: float
    opened_seconds: float


@dataclass(frozen=True)
class ShotScore:
    """What a mixture scores on the shots.

    Attributes:
        accuracy: Fraction answered right, greedily.
        log_likelihood: Of a correct answer, averaged over the shots; it breaks ties.
    """

    accuracy: float
    log_likelihood: float


@dataclass(frozen=True)
class FoundMixture:
    """The outcome of one search.

    Attributes:
        name: The search's.
        z: The winning mixture.
        alphas: {expert: coefficient}.
        score: Of the winner, on the shots.
        base: Of the base.
        singles: {expert: its score alone}; the best of them is the pick-one baseline.
        history: Best and mean accuracy of each generation.
        trials: In order of generation and chunk.
        seconds: The Tune run's, which all searches of the call share; 0 if a finished run was used again.
    """

    name: str
    z: ZVector
    alphas: Mapping[str, Alpha]
    score: ShotScore
    base: ShotScore
    singles: Mapping[str, ShotScore]
    history: tuple[Generation, ...]
    trials: tuple[SearchTrial, ...]
    seconds: float

    @property
    def actors(self) -> tuple[str, ...]:
        """Ids of the actors that ran its trials."""
        return tuple(dict.fromkeys(trial.actor for trial in self.trials))


def search_mixtures(
    shipped: ShippedBase,
    problems: Sequence[SearchProblem],
    settings: SearchSettings,
    storage: Path,
    name: str = "search",
) -> list[FoundMixture]:
    """Run searches in one Tune run on the connected Ray cluster: actors start once, and barriers do not idle.

    The same searches, finished before, are not run again: see ``finished_mixtures``.

    Args:
        shipped: The base of all experts.
        problems: The searches; names must differ.
        settings: How all of them search.
        storage: Where Tune keeps its state on this machine. A run of the same searches that was cut short
            there is resumed, and one that finished is used again.
        name: Begins the name of the run's folder.

    Returns:
        A result for each problem, in order.

    Raises:
        SpecError: No searches, equal names, or a population too small.
        JobError: No actor fits, or a trial failed; the same call goes on from what is done.
        EngineError: The engine is not installed, or does not run this base.
        RewardError, RequestTooLong, ...: What the trials raised.
        KeyboardInterrupt: Ctrl-C; the same call resumes.
    """
    base = f"{shipped.fingerprint} {shipped.dtype}"
    named, searcher, folder = _prepared(base, problems, settings, storage, name)
    if read_finished(searcher, folder):
        return _all_found(named, searcher, 0.0)
    started = time.perf_counter()
    with shared_fleet(shipped, settings.engine, settings.resources) as fleet:
        run_tune(SearchJob(shipped, named, settings, fleet), searcher, folder)
    return _all_found(named, searcher, time.perf_counter() - started)


def finished_mixtures(
    bundle: BaseBundle,
    problems: Sequence[SearchProblem],
    settings: SearchSettings,
    storage: Path,
    name: str = "search",
) -> list[FoundMixture] | None:
    """Read the results of exactly these searches if they were finished before; needs no cluster.

    Args:
        bundle: The base of all experts.
        problems, settings, storage, name: As for ``search_mixtures``.

    Returns:
        None if there are none, or if they do not follow from the scores that are stored with them.

    Raises:
        SpecError: As ``search_mixtures``.
    """
    base = f"{bundle.fingerprint} {bundle.spec.dtype}"
    named, searcher, folder = _prepared(base, problems, settings, storage, name)
    return _all_found(named, searcher, 0.0) if read_finished(searcher, folder) else None


def _prepared(
    base: str, problems: Sequence[SearchProblem], settings: SearchSettings, storage: Path, name: str
) -> tuple[dict[str, SearchProblem], ChunkSearcher, Path]:
    """Prepare the searches by name, at their start, and the folder of their run."""
    named = {problem.name: problem for problem in problems}
    if not problems or len(named) != len(problems):
        raise SpecError(f"searches are named {[problem.name for problem in problems]}", "give each a name of its own")
    digest = problems_digest(named, settings, f"{version('zfleet')} {base}")
    return named, new_searcher(named, settings), storage.resolve() / f"{name}-{digest[:12]}"


def _all_found(problems: Mapping[str, SearchProblem], searcher: ChunkSearcher, seconds: float) -> list[FoundMixture]:
    return [
        _found(problem, searcher.searches[name], searcher.records[name], seconds) for name, problem in problems.items()
    ]


def _found(
    problem: SearchProblem, search: CrossEntropy, records: list[dict[str, object]], seconds: float
) -> FoundMixture:
    assert search.best is not None
    alphas = alphas_of(search.best.point, search.experts, search.layers)
    trials = sorted((_trial(record) for record in records), key=lambda trial: (trial.generation, trial.chunk))
    scores = _first_scores(records)
    return FoundMixture(
        name=problem.name,
        z=mix(list(problem.experts.values()), alphas),
        alphas=dict(zip(problem.experts, alphas, strict=True)),
        score=ShotScore(*search.best.score),
        base=scores[0],
        singles=dict(zip(problem.experts, scores[1:], strict=False)),
        history=search.history,
        trials=tuple(trials),
        seconds=seconds,
    )


def _first_scores(records: list[dict[str, object]]) -> list[ShotScore]:
    """Select the scores of the first population, which begins with the base and every single expert."""
    first = sorted((r for r in records if r["generation"] == 0), key=lambda r: str(r["chunk"]).zfill(9))
    return [ShotScore(*score) for record in first for score in _scores(record)]


def _scores(record: dict[str, object]) -> list[tuple[float, float]]:
    scores = record["scores"]
    assert isinstance(scores, list)
    return scores


def _trial(record: dict[str, object]) -> SearchTrial:
    values = {key: value for key, value in record.items() if key != "scores"}
    return SearchTrial(candidates=len(_scores(record)), **values)  # type: ignore[arg-type]  # JSON of its own fields
