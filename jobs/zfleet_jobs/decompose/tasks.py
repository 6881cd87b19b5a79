"""One Ray task per matrix: as many at once as the cluster has CPUs and memory for, the largest first."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from zfleet.errors import JobError, ZfleetError
from zfleet.svf.decompose import DecomposedMatrix, decompose_matrix
from zfleet.svf.matrix_file import matrix_file
from zfleet.svf.stored import StoredMatrix
from zfleet_cluster import on_one_line
from zfleet_jobs.decompose.memory import task_bytes

_RETRIES = 3
"""How often a matrix is begun again after its worker died. Of those that Ray's memory monitor kills, it counts none."""

_DIED = (WorkerCrashedError, NodeDiedError)

_GIB = 2**30


def decompose_on_ray(
    matrices: Sequence[StoredMatrix], folder: Path, dtype: torch.dtype, memory: int | None
) -> Iterator[DecomposedMatrix]:
    """Decompose matrices on the cluster that this process is connected to; gives each as it is finished.

    Every task takes one CPU and reserves its memory: Ray puts it where both are free. The first error ends all: what is
    finished stays.

    Args:
        matrices: In the base's files, which every machine can read.
        folder: Where the factors go; every machine writes there.
        dtype: What they are stored in.
        memory: How much all tasks together may take, in bytes; None for all that the cluster has.

    Raises:
        JobError: A matrix needs more memory than there is, no machine has a CPU, workers died too often, Ray failed, or
            the machines share no folder.
        BaseModelError, FactorsError: As ``decompose_matrix``.
    """
    waiting = deque(sorted(matrices, key=task_bytes, reverse=True))
    _check_room(waiting[0], memory)
    running: dict[Any, StoredMatrix] = {}
    try:
        while waiting or running:
            # Counted each time, because clusters grow.
            cpus = max(1, sum(int(machine.get("CPU", 0)) for machine in _machines()))
            while waiting and len(running) < cpus:
                taken = sum(map(task_bytes, running.values()))
                if memory is not None and taken + task_bytes(waiting[0]) > memory:
                    break
                matrix = waiting.popleft()
                task = _decompose.options(name=f"decompose {matrix.name}", memory=task_bytes(matrix))
                running[task.remote(matrix, folder, dtype)] = matrix
            (done, *_), _ = ray.wait(list(running))
            yield _result(done, running.pop(done), folder)
    finally:
        for task in running:
            ray.cancel(task, force=True)


def _decompose_matrix(matrix: StoredMatrix, folder: Path, dtype: torch.dtype) -> DecomposedMatrix:
    torch.set_num_threads(1)
    return decompose_matrix(matrix, folder, dtype)


_decompose: Any = ray.remote(num_cpus=1, max_retries=_RETRIES)(_decompose_matrix)


def _machines() -> list[dict[str, float]]:
    """List the resources of each machine of the cluster."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _check_room(largest: StoredMatrix, memory: int | None) -> None:
    """Refuse a job whose tasks would wait for ever."""
    need = task_bytes(largest)
    what = f"decomposing {largest.name} {list(largest.shape)} takes up to {need / _GIB:.1f} GiB"
    if memory is not None and need > memory:
        raise JobError(f"{what}, --memory is {memory / _GIB:.1f}", "raise it")
    # A head node that runs no tasks has memory but no CPU.
    rooms = [machine.get("memory", 0) for machine in _machines() if machine.get("CPU", 0) >= 1]
    if not rooms:
        raise JobError("no machine of the cluster has a CPU for tasks", "add one that has: `ray start --num-cpus N`")
    if need > max(rooms):
        raise JobError(
            f"{what}, no machine of the cluster with a CPU has more than {max(rooms) / _GIB:.1f} GiB for tasks",
            "add a machine with more memory, or choose other matrices with base.targets",
        )


def _result(task: Any, matrix: StoredMatrix, folder: Path) -> DecomposedMatrix:
    try:
        done: DecomposedMatrix = ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, ZfleetError):
            raise error.cause from error
        raise
    except RayError as error:
        raise _failure(matrix.name, error) from error
    # List the folder: by name, a network file system may answer from its cache that the file is not there.
    if matrix_file(folder, matrix.name).name not in os.listdir(folder):  # noqa: PTH208
        raise JobError(
            f"the worker of {matrix.name} wrote to {folder} of another machine",
            "set ZFLEET_CACHE to a folder that all machines share",
        )
    return done


def _failure(matrix: str, error: RayError) -> JobError:
    """Explain what Ray could not do with a task, and how often it tried if that is known."""
    what, remedy = f"{matrix} could not be decomposed", "the same command goes on where it stopped"
    reason = on_one_line(error)
    if isinstance(error, OutOfMemoryError):
        return JobError(f"{what}, its machine has too little memory: {reason}", f"lower --memory; {remedy}")
    if isinstance(error, _DIED):
        return JobError(
            f"{what}, its worker died {_RETRIES + 1} times: {reason}", f"where memory ran out, lower --memory; {remedy}"
        )
    return JobError(f"{what}: {type(error).__name__}: {reason}", remedy)
