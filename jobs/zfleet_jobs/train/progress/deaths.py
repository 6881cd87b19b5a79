"""Reports which worker died as soon as Ray Train knows it, which itself logs that only on the worker's machine."""

from __future__ import annotations

import logging
from typing import Any

import ray.train
from ray.exceptions import RayActorError

from zfleet.errors import ZfleetError
from zfleet_jobs.run_folder.checkpoints import ExpertFolder

log = logging.getLogger(__name__)


class DeathReports(ray.train.UserCallback):
    """Runs in Ray Train's controller, one for each cohort. A report that fails is logged, and training goes on.

    Args:
        cohort: Its name.
        board: Where to report.
        folder: Of an expert, whose newest checkpoint the next attempt goes on from.
        max_failures: How many attempts may fail before the run does.
    """

    def __init__(self, cohort: str, board: Any, folder: ExpertFolder, max_failures: int) -> None:
        self._cohort = cohort
        self._board = board
        self._folder = folder
        self._restarts_left = max_failures

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Report the workers of an attempt that failed; Ray Train calls this once for each attempt."""
        try:
            causes = {rank: _cause(error) for rank, error in worker_exceptions.items()}
            self._board.report_deaths.remote(self._cohort, causes, self._next())
        except Exception:
            log.exception("the death of workers of %s could not be reported", self._cohort)
        self._restarts_left -= 1

    def _next(self) -> str:
        if not self._restarts_left:
            return "it was restarted as often as `max_failures` allows"
        try:
            checkpoint = self._folder.checkpoint()
        except (ZfleetError, OSError) as error:
            return f"restarting, but {error}"
        return f"restarting from step {checkpoint.step if checkpoint else 0}"


def _cause(error: Exception) -> str:
    # Ray Train wraps the error that its health check of the worker ended with.
    error = getattr(error, "health_check_failure", error)
    if isinstance(error, RayActorError):
        return "died"
    return f"failed ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
