"""A worker that dies of memory ends its training if it would die again. The board is an actor, so that Ray runs."""

from __future__ import annotations

from typing import Any, cast

import pytest
import ray
from ray.exceptions import OutOfMemoryError

from zfleet.errors import JobError
from zfleet.memory.table import MemoryTable, Part
from zfleet_jobs.run_folder.checkpoints import ExpertFolder
from zfleet_jobs.train.progress.board import BoardEvents, start_board
from zfleet_jobs.train.progress.deaths import DeathReports

KILLED = OutOfMemoryError(  # type: ignore[no-untyped-call]
    "Task was killed due to the node running low on memory. (pid=31, memory used=6.85GB)"
)
MEMORY = MemoryTable("a worker", (Part("weights", 2**30, ""), Part("a micro-batch", 5 * 2**30, "", "learning")))


class Folder:
    """A run's folder of which only the newest step is asked."""

    def __init__(self, step: int) -> None:
        self.step = step

    def checkpoint(self) -> Folder | None:
        return self if self.step else None


@pytest.fixture
def board(ray_cluster: None) -> Any:
    return start_board()


def reports(board: Any, folder: Folder) -> DeathReports:
    return DeathReports("polite", board, cast(ExpertFolder, folder), max_failures=2, memory=MEMORY)


def test_a_worker_that_finished_no_step_is_not_started_again(board: Any) -> None:
    reports(board, Folder(0)).after_exception(None, {0: KILLED})
    error = ray.get(board.error.remote("polite"))
    assert isinstance(error, JobError)
    assert error.message == (
        "expert polite: worker 0 was ended, holding 6.85GB, because its machine ran out of memory. By the plan it "
        "needs up to 6.00 GiB (a micro-batch 5.00 GiB, weights 1.00 GiB); it had finished no step since it started, "
        "so that it is not started again"
    )
    assert "learner.micro_batch_tokens" in error.remedy
    assert "RAY_" not in str(error)


def test_a_worker_that_came_further_is_started_again_until_it_stands_still(board: Any) -> None:
    folder = Folder(0)
    found = reports(board, folder)
    folder.step = 3
    found.after_exception(None, {0: KILLED})
    events: BoardEvents = ray.get(board.take.remote())
    assert events.warnings == [
        "expert polite: worker 0 was ended, holding 6.85GB, because its machine ran out of memory; "
        "restarting from step 3"
    ]
    assert ray.get(board.error.remote("polite")) is None
    found.after_exception(None, {0: KILLED})
    assert isinstance(ray.get(board.error.remote("polite")), JobError)


def test_another_death_is_none_of_memory(board: Any) -> None:
    reports(board, Folder(0)).after_exception(None, {0: ValueError("torn")})
    assert ray.get(board.error.remote("polite")) is None
    assert "failed (ValueError: torn)" in ray.get(board.take.remote()).warnings[0]
