"""One Ray Tune run for all searches of a call: started, or resumed if the same one was cut short."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, TuneError
from ray.tune.experiment import Trial

from zfleet.errors import CheckpointError, JobError, ZfleetError
from zfleet_cluster.capacity import actors_that_fit
from zfleet_jobs.search.finished import FINISHED, write_finished
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.progress import SearchProgress
from zfleet_jobs.search.scheduler import HoldActors
from zfleet_jobs.search.searcher import ChunkSearcher
from zfleet_jobs.search.settings import SearchSettings
from zfleet_jobs.search.trainable import ChunkTrainable, SearchJob

_LOG = logging.getLogger(__name__)

_TUNE_SETTINGS = {
    # Neither result files per trial nor TensorBoard: results are in the run's state.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # At the default of ten seconds a killed search would lose most of its work.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    # Failures are reported once, by us.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # The new output prints tables at verbosity 0, too.
    "RAY_AIR_NEW_OUTPUT": "0",
}


def new_searcher(problems: Mapping[str, SearchProblem], settings: SearchSettings) -> ChunkSearcher:
    """Make the searches, at their start.

    Raises:
        SpecError: A setting does not fit the experts.
    """
    return ChunkSearcher(
        {name: problem.search(settings) for name, problem in problems.items()}, chunks=settings.trials_per_generation
    )


def run_tune(job: SearchJob, searcher: ChunkSearcher, folder: Path) -> None:
    """Run all searches to their end.

    Args:
        job: The searches.
        searcher: ``new_searcher`` of them; afterwards it holds the outcome.
        folder: Where Tune keeps the run, on this machine; named by a digest of the job. One that was cut
            short there is resumed. A finished one leaves what ``read_finished`` reads.

    Raises:
        JobError: No actor fits, or a trial failed.
        ZfleetError: What a trial raised.
        KeyboardInterrupt: Ctrl-C; actors have ended, and the same call goes on from there.
    """
    settings = job.settings
    actors = actors_that_fit(settings.resources, searcher.chunks * len(job.problems))
    searcher.actors = actors
    # Without what is 0: a bundle of a placement group has amounts above it.
    trainable = tune.with_resources(tune.with_parameters(ChunkTrainable, job=job), settings.resources.amounts)
    # With a searcher of its own, Tune allows one pending trial, and would start actors one after another.
    with _environment({**_TUNE_SETTINGS, "TUNE_MAX_PENDING_TRIALS_PG": str(actors)}), _quiet("ray.tune"):
        tuner = _resumed(trainable, searcher, folder) or _fresh(trainable, searcher, folder)
        with _signals_given_back() as interrupted:
            try:
                tuner.fit()
            except TuneError as error:
                with suppress(CheckpointError):  # it failed before anything was stored
                    _load_newest(searcher, folder)
                raise _cause(error) from error
            stopped = interrupted()
    # Load the state again: a resumed tuner works on a copy of the searcher.
    _load_newest(searcher, folder)
    if searcher.finished:
        write_finished(searcher, folder)
    if stopped:
        raise KeyboardInterrupt
    if not searcher.finished:
        done = sum(map(len, searcher.records.values()))
        raise JobError(
            f"Ray Tune ended the search after {done} trials, before its outcome",
            "run the same command again: it goes on from there",
        )


def trial_name(trial: Trial) -> str:
    """Name a trial ``exam-3-1``: search, round, chunk."""
    config = trial.config
    return f"{config['search']}-{config['round']}-{config['chunk']}"


def trial_folder(trial: Trial) -> str:
    """Name a trial's folder, which has its id too, because a chunk may be tried again."""
    return f"{trial_name(trial)}-{trial.trial_id}"


def _fresh(trainable: Any, searcher: ChunkSearcher, folder: Path) -> tune.Tuner:
    if folder.exists():
        shutil.rmtree(folder)
    return tune.Tuner(
        trainable,
        param_space={},
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=HoldActors(),  # type: ignore[no-untyped-call]  # Ray's own __init__
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_folder,
        ),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            # A lost actor is replaced twice; answers never come from a checkpoint, so none is written.
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[SearchProgress({name: search.plan.generations for name, search in searcher.searches.items()})],
            verbose=0,
        ),
    )


def _resumed(trainable: Any, searcher: ChunkSearcher, folder: Path) -> tune.Tuner | None:
    """Restore the tuner of a run that was cut short, or return None. Every file that Tune will read is tried first.

    Tune would silently run a single trial if it could not read its own state.
    """
    if (folder / FINISHED).exists() or not tune.Tuner.can_restore(str(folder)):
        return None
    try:
        for pattern in ("experiment_state-*.json", "search_gen_state-*.json"):
            _newest(folder, pattern)
        _load_newest(searcher, folder)
    except (CheckpointError, OSError, ValueError) as error:
        _LOG.warning("the unfinished search in %s cannot be resumed and starts again: %s", folder, error)
        return None
    # Trials that were under way are left as they are: the searcher offers their chunks again.
    return tune.Tuner.restore(str(folder), trainable, resume_unfinished=False, resume_errored=False, param_space={})


def _newest(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if not files:
        raise CheckpointError(f"{folder} has no {pattern}", "start the search again")
    if "search_gen_state" not in pattern:  # that one is a pickle
        json.loads(files[-1].read_text())
    return files[-1]


def _load_newest(searcher: ChunkSearcher, folder: Path) -> None:
    searcher.restore(str(_newest(folder, ChunkSearcher.CKPT_FILE_TMPL.format("*"))))


def _cause(error: BaseException) -> ZfleetError:
    """Find the error of ours that made Tune stop among those that Tune wraps around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ZfleetError):
            return seen
        seen = seen.__cause__ or seen.__context__
    last = str(error).strip().splitlines()[-1]
    return JobError(f"Ray Tune stopped the search: {last}", "run the same command again: what is done is kept")


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _signals_given_back() -> Iterator[Callable[[], bool]]:
    """Restore signal handlers: Tune obeys a first Ctrl-C by a clean stop, without saying so, and then keeps them.

    Yields:
        Whether Tune was stopped by a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # there Tune leaves signals alone
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        # Tune's handler restores the previous one for the next Ctrl-C.
        yield lambda: signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that Python did not install
                signal.signal(number, handler)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger: Tune logs every interruption and failure, which are reported once, by us."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
