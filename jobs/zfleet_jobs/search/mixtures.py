"""Searching mixtures of experts that are at hand: several searches in one Ray Tune run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from zfleet.config.names import Alpha
from zfleet.errors import SpecError, ZfleetError
from zfleet.models.bundle import BaseBundle
from zfleet.search.method import Score
from zfleet.search.objective import ACCURACY, Measured
from zfleet.search.plan import Generation, Tried
from zfleet.search.search import Search
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet_cluster.fleet.actors import shared_fleet
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_jobs.search.finished import read_finished
from zfleet_jobs.search.problem import SearchProblem, problems_digest
from zfleet_jobs.search.searcher import ChunkSearcher
from zfleet_jobs.search.settings import SearchSettings
from zfleet_jobs.search.study import check_study, write_studies
from zfleet_jobs.search.trainable import SearchJob
from zfleet_jobs.search.tuning import new_searcher, run_tune

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchTrial:
    """One Tune trial: a chunk of a round in one engine batch.

    Attributes:
        round: Counted from 0.
        chunk: Which part of the round.
        stage: What the round was for.
        generation: Counted from 0.
        candidates: How many it tried.
        answers: How many answers it graded.
        actor: Id of the Ray actor that ran it.
        batch_rows: The most answers that grew in one engine step while it ran. In a fleet trials share steps, and
            it is the most of any step of the fleet until the trial's end.
        distinct_z: The most different z in one such step.
        seconds: Of its step.
        opened_seconds: Of opening the base (of a fleet's trial, the tokenizer), if the trial started its actor; else 0.
    """

    round: int
    chunk: int
    stage: str
    generation: int
    candidates: int
    answers: int
    actor: str
    batch_rows: int
    distinct_z: int
    seconds: float
    opened_seconds: float


@dataclass(frozen=True)
class ShotScore:
    """What a mixture scores on the shots.

    Attributes:
        value: Of the objective; of its first target if there are two.
        tie: What breaks ties: the log-likelihood of a right answer, averaged over the shots.
    """

    value: float
    tie: float

    @classmethod
    def of(cls, score: Score) -> ShotScore:
        """Take the first and the last entry of a score."""
        return cls(score[0], score[-1] if len(score) > 1 else 0.0)


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
        searched_best: The highest value of any candidate on the shots, which is an optimistic number.
        selection: Scores of the winner, the base and the best single expert on the fresh samples of the finals. The
            winner's is what it is expected to score on others: each sample counts under the finalist that the others
            choose.
        test: Whether each of the three answered each held-out prompt right; empty if none were asked.
        targets: How many targets were searched for: the first entries of a candidate's score.
        tried: Every candidate that answered shots.
        evaluations: Answers to shots and to samples of the selection.
        history: Best and mean value of each generation.
        trials: In order of round and chunk.
        seconds: The Tune run's, which all searches of the call share; 0 if a finished run was used again.
    """

    name: str
    z: ZVector
    alphas: Mapping[str, Alpha]
    score: ShotScore
    base: ShotScore
    singles: Mapping[str, ShotScore]
    searched_best: float
    selection: Mapping[str, ShotScore]
    test: Mapping[str, tuple[bool, ...]]
    targets: int
    tried: tuple[Tried, ...]
    evaluations: int
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
        JobError: No actor fits, a trial failed, or the studies cannot be written; the same call goes on from what is
            done.
        EngineError: The engine is not installed, or does not run this base.
        RewardError, RequestTooLong, ...: What the trials raised.
        KeyboardInterrupt: Ctrl-C; the same call resumes.
    """
    base = f"{shipped.fingerprint} {shipped.dtype}"
    named, searcher, folder = _prepared(base, problems, settings, storage, name)
    seconds = 0.0
    if finished := read_finished(searcher, folder):
        searcher = finished
    else:
        started = time.perf_counter()
        try:
            with shared_fleet(shipped, settings.engine, settings.resources) as fleet:
                run_tune(SearchJob(shipped, named, settings, fleet), searcher, folder)
        except BaseException:
            # What was tried before an interruption is a study, too. The interruption is what the caller has to know.
            try:
                write_studies(searcher.searches, folder, settings.study)
            except ZfleetError as error:
                _LOG.warning("%s", error)
            raise
        seconds = time.perf_counter() - started
    write_studies(searcher.searches, folder, settings.study)
    return _all_found(named, searcher, settings, seconds)


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
        JobError: The studies cannot be written.
    """
    base = f"{bundle.fingerprint} {bundle.spec.dtype}"
    named, begun, folder = _prepared(base, problems, settings, storage, name)
    searcher = read_finished(begun, folder)
    if searcher is None:
        return None
    # The call that finished them may have failed at this.
    write_studies(searcher.searches, folder, settings.study)
    return _all_found(named, searcher, settings, 0.0)


def _prepared(
    base: str, problems: Sequence[SearchProblem], settings: SearchSettings, storage: Path, name: str
) -> tuple[dict[str, SearchProblem], ChunkSearcher, Path]:
    """Prepare the searches by name, at their start, and the folder of their run."""
    if settings.study is not None:
        check_study(settings.study)
    named = {problem.name: problem for problem in problems}
    if not problems or len(named) != len(problems):
        raise SpecError(f"searches are named {[problem.name for problem in problems]}", "give each a name of its own")
    digest = problems_digest(named, settings, f"{version('zfleet')} {base}")
    return named, new_searcher(named, settings), storage.resolve() / f"{name}-{digest[:12]}"


def _all_found(
    problems: Mapping[str, SearchProblem], searcher: ChunkSearcher, settings: SearchSettings, seconds: float
) -> list[FoundMixture]:
    return [
        _found(problem, searcher.searches[name], searcher.records[name], settings, seconds)
        for name, problem in problems.items()
    ]


def _found(
    problem: SearchProblem,
    search: Search,
    records: list[dict[str, object]],
    settings: SearchSettings,
    seconds: float,
) -> FoundMixture:
    outcome = search.outcome
    assert outcome is not None
    alphas = search.space.alphas(outcome.winner.tolist())
    trials = [SearchTrial(**record) for record in records]  # type: ignore[arg-type]  # JSON of its own fields
    return FoundMixture(
        name=problem.name,
        z=mix(list(problem.experts.values()), alphas),
        alphas=dict(zip(problem.experts, alphas, strict=True)),
        score=ShotScore.of(outcome.shots["winner"]),
        base=ShotScore.of(outcome.shots["base"]),
        singles={name: ShotScore.of(outcome.shots[name]) for name in problem.experts},
        searched_best=outcome.searched_best,
        selection={name: ShotScore.of(score) for name, score in outcome.selection.items()},
        test={name: _right(rows, settings) for name, rows in outcome.test.items()},
        targets=len(search.objective.targets),
        tried=tuple(search.tried()),
        evaluations=search.evaluations,
        history=search.history,
        trials=tuple(sorted(trials, key=lambda trial: (trial.round, trial.chunk))),
        seconds=seconds,
    )


def _right(rows: Measured, settings: SearchSettings) -> tuple[bool, ...]:
    return tuple((rows[:, settings.objective.metrics.index(ACCURACY)] > 0).tolist())
