"""Says which worker died, as soon as Ray Train knows it: by itself it writes that to a log on the machine it ran on."""

from __future__ import annotations

from typing import Any

import ray.train
from ray.exceptions import RayActorError

from zfleet.errors import CheckpointError
from zfleet_jobs.run_folder.checkpoints import KeptRun


class Deaths(ray.train.UserCallback):
    """Runs in Ray Train's controller, one for each expert.

    Args:
        expert: Its name.
        board: Where to say it.
        kept: What the next attempt goes on from.
        max_failures: How many attempts may fail before the run does.
    """

    def __init__(self, expert: str, board: Any, kept: KeptRun, max_failures: int) -> None:
        self._expert = expert
        self._board = board
        self._kept = kept
        self._left = max_failures

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train once for each attempt that failed."""
        how = {rank: _became(error) for rank, error in worker_exceptions.items()}
        self._board.lose.remote(self._expert, how, self._next())
        self._left -= 1

    def _next(self) -> str:
        if not self._left:
            return "it was restarted as often as `max_failures` allows"
        try:
            state = self._kept.state()
        except CheckpointError as error:
            return f"restarting, but {error}"
        return f"restarting from step {state.step if state else 0}"


def _became(error: Exception) -> str:
    # Ray Train wraps what its own question to the worker ended with.
    cause = getattr(error, "health_check_failure", error)
    if isinstance(cause, RayActorError):
        return "died"
    return f"failed ({type(cause).__name__}: {next(iter(str(cause).splitlines()), '')})"
