"""One Ray task per matrix: as many at once as the cluster has CPUs and memory for, the largest first."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from zfleet.errors import JobError, ZfleetError
from zfleet.svf.decompose import DecomposedMatrix, decompose_matrix
from zfleet.svf.matrix_file import matrix_file
from zfleet.svf.stored import StoredMatrix
from zfleet_jobs.decompose.memory import task_bytes

_RETRIES = 3
"""How often a matrix is begun again after its worker died."""

_GIB = 2**30


def decompose_on_ray(
    matrices: Sequence[StoredMatrix], folder: Path, dtype: torch.dtype, memory: int | None
) -> Iterator[DecomposedMatrix]:
    """Decompose matrices on the cluster that this process is connected to; gives each as it is finished.

    Every task takes one CPU and reserves its memory: Ray puts it where both are free. The first error ends all: what is
    finished stays.

    Args:
        matrices: Where they lie; every machine reads them there.
        folder: Where the factors go; every machine writes there.
        dtype: What they are stored in.
        memory: What all tasks together may take, in bytes; none: what the cluster has.

    Raises:
        JobError: A matrix needs more memory than there is, its worker died too often, or the machines share no folder.
        BaseModelError, FactorsError: As ``decompose_matrix``.
    """
    waiting = deque(sorted(matrices, key=task_bytes, reverse=True))
    _check_room(waiting[0], memory)
    running: dict[Any, StoredMatrix] = {}
    try:
        while waiting or running:
            # Asked each time: clusters grow.
            cpus = max(1, int(sum(machine.get("CPU", 0) for machine in _machines())))
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


def _one(matrix: StoredMatrix, folder: Path, dtype: torch.dtype) -> DecomposedMatrix:
    torch.set_num_threads(1)
    return decompose_matrix(matrix, folder, dtype)


_decompose: Any = ray.remote(num_cpus=1, max_retries=_RETRIES)(_one)


def _machines() -> list[dict[str, float]]:
    """What each machine of the cluster has."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _check_room(largest: StoredMatrix, memory: int | None) -> None:
    """Refuse what would wait for ever."""
    need = task_bytes(largest)
    what = f"decomposing {largest.name} {list(largest.shape)} takes up to {need / _GIB:.1f} GiB"
    if memory is not None and need > memory:
        raise JobError(f"{what}, --memory is {memory / _GIB:.1f}", "raise it")
    most = max((machine.get("memory", 0) for machine in _machines()), default=0)
    if need > most:
        raise JobError(
            f"{what}, no machine of the cluster has more than {most / _GIB:.1f} GiB for tasks",
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
        raise JobError(
            f"{matrix.name} could not be decomposed, its worker died {_RETRIES + 1} times: "
            f"{str(error).strip().splitlines()[0]}",
            "where memory ran out, lower --memory; the same command goes on where it stopped",
        ) from error
    # Listed, not asked for by name: a network file system remembers that a file was not there.
    if matrix_file(folder, matrix.name).name not in os.listdir(folder):  # noqa: PTH208
        raise JobError(
            f"the worker of {matrix.name} wrote to {folder} of another machine",
            "set ZFLEET_CACHE to a folder that all machines share",
        )
    return done
