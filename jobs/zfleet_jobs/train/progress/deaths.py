"""Reports which worker died as soon as Ray Train knows it, which itself logs that only on the worker's machine."""

from __future__ import annotations

import logging
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError, RayError

from zfleet.errors import JobError, ZfleetError
from zfleet.memory.keys import TRAIN_KEYS
from zfleet.memory.node import oom_kills
from zfleet.memory.table import MemoryTable, gib
from zfleet_cluster.errors import memory_death
from zfleet_jobs.run_folder.checkpoints import ExpertFolder

log = logging.getLogger(__name__)


class DeathReports(ray.train.UserCallback):
    """Runs in Ray Train's controller, one for each cohort. A report that fails is logged, and training goes on.

    Args:
        cohort: Its name.
        board: Where to report.
        folder: Of an expert, whose newest checkpoint the next attempt goes on from.
        max_failures: How many attempts may fail before the run does.
        memory: What a worker was planned to need.
    """

    def __init__(self, cohort: str, board: Any, folder: ExpertFolder, max_failures: int, memory: MemoryTable) -> None:
        self._cohort = cohort
        self._board = board
        self._folder = folder
        self._restarts_left = max_failures
        self._memory = memory
        self._kernel_kills = oom_kills()
        self._began_at = self._step()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Report the workers of an attempt that failed; Ray Train calls this once for each attempt.

        If memory ran out before the attempt had finished a step, the next one would die too: the run fails then.
        """
        try:
            killed, self._kernel_kills = oom_kills() - self._kernel_kills, oom_kills()
            deaths = {rank: _death(error, killed) for rank, error in worker_exceptions.items()}
            step = self._step()
            if any(deaths.values()) and step <= self._began_at:
                rank, death = next((rank, death) for rank, death in deaths.items() if death)
                ray.get(self._board.fail.remote(self._cohort, out_of_memory(self._cohort, rank, death, self._memory)))
            else:
                causes = {rank: deaths[rank] or _cause(error) for rank, error in worker_exceptions.items()}
                self._board.report_deaths.remote(self._cohort, causes, self._next())
            self._began_at = step
        except Exception:
            log.exception("the death of workers of %s could not be reported", self._cohort)
        self._restarts_left -= 1

    def _step(self) -> int:
        """Return the step of the newest checkpoint; 0 if there is none that can be read."""
        try:
            checkpoint = self._folder.checkpoint()
        except (ZfleetError, OSError):
            return 0
        return checkpoint.step if checkpoint else 0

    def _next(self) -> str:
        if not self._restarts_left:
            return "it was restarted as often as `max_failures` allows"
        try:
            checkpoint = self._folder.checkpoint()
        except (ZfleetError, OSError) as error:
            return f"restarting, but {error}"
        return f"restarting from step {checkpoint.step if checkpoint else 0}"


def out_of_memory(cohort: str, rank: int, death: str, memory: MemoryTable) -> JobError:
    """Make the error about a worker that died because memory ran out.

    Args:
        cohort: What it trained.
        rank: Its number.
        death: How it died.
        memory: What it was planned to need.
    """
    return JobError(
        f"expert {cohort}: worker {rank} {death}. By the plan it needs up to {gib(memory.peak)} "
        f"({memory.largest()}); it had finished no step since it started, so that it is not started again",
        f"lower {TRAIN_KEYS}; or, if other processes took the memory, end them: the same command goes on",
    )


def _death(error: Exception, kernel_kills: int) -> str | None:
    """Say how a worker died of memory; None if it died of something else, or failed in Python."""
    error = _wrapped(error)
    return memory_death(error, kernel_kills) if isinstance(error, RayError) else None


def _wrapped(error: Exception) -> Exception:
    """Return the error that Ray Train's health check of a worker ended with."""
    wrapped: Exception = getattr(error, "health_check_failure", error)
    return wrapped


def _cause(error: Exception) -> str:
    error = _wrapped(error)
    if isinstance(error, RayActorError):
        return "died"
    return f"failed ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
