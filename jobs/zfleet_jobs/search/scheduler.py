"""Keeping actors alive across the barrier of a generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from zfleet.errors import JobError, ZfleetError


class HoldActors(FIFOScheduler):
    """First in, first out, but a trial with its result in keeps its actor until another trial wants one.

    Ray Tune reuses actors only where more trials are pending at the moment one ends; otherwise it keeps a
    single one. At the barrier nothing is pending, so that every generation would start all actors but one
    again, several seconds each. A trial here ends when the next one is there to take its actor, or at the end.

    Raises (out of ``Tuner.fit``, as the context of a ``TuneError``):
        JobError, ZfleetError: A trial failed for a reason that trying again does not change, or too often.
    """

    # Trials that Tune has not assigned to an actor. A class attribute, because Ray's __init__ sets none.
    _new: tuple[Trial, ...] = ()

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._new = (*self._new, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return str(TrialScheduler.NOOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        trials = tune_controller.get_trials()
        held = [trial for trial in trials if trial.status == Trial.RUNNING and "measured" in trial.last_result]
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        if tune_controller.search_alg.is_finished():
            for trial in held:
                tune_controller.stop_trial(trial)
        elif self._new and held:
            tune_controller.stop_trial(held[0])
        self._new = ()
        return waiting[0] if waiting else None

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        error = _raised(trial)
        if isinstance(error, ZfleetError):
            raise error
        if not trial.should_recover():
            config = trial.config
            raise JobError(
                f"search {config['search']}, generation {config['generation']}, chunk {config['chunk']} of round "
                f"{config['round']} failed again: {type(error).__name__}: {str(error).strip().splitlines()[-1]}",
                "run the same command again: what is done is kept",
            )


def _raised(trial: Any) -> BaseException | None:
    """Unwrap the error that a trial raised."""
    # `get_pickled_error` reads the copy in the storage, which arrives there later.
    path = Path(trial.pickled_error_file or "")
    error = cloudpickle.loads(path.read_bytes()) if path.is_file() else None
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, BaseException) else error
