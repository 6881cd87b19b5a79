"""Matrices on Ray: what would wait for ever is refused, and what Ray raises is told as what it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RuntimeEnvSetupError, WorkerCrashedError

from zfleet.errors import JobError
from zfleet.svf.stored import StoredMatrix
from zfleet_jobs.decompose import tasks
from zfleet_jobs.decompose.tasks import decompose_on_ray

GIB = 2**30
MATRIX = StoredMatrix("layers.0.up", Path("model.safetensors"), "layers.0.up.weight", (64, 64), torch.float32)

NODE_DIED = NodeDiedError("gone:\n  node 7")  # type: ignore[no-untyped-call]
KILLED = OutOfMemoryError("Killed.\nFree 0")  # type: ignore[no-untyped-call]


def decompose(monkeypatch: pytest.MonkeyPatch, *machines: dict[str, float]) -> None:
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    nodes.append({"Alive": False, "Resources": {"CPU": 64, "memory": 999 * GIB}})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    next(decompose_on_ray([MATRIX], Path(os.devnull), torch.float32, None))


def test_a_machine_without_a_cpu_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    head: dict[str, float] = {"memory": 100 * GIB}
    with pytest.raises(JobError, match="no machine of the cluster has a CPU"):
        decompose(monkeypatch, head, {"CPU": 0.5, "memory": 100 * GIB})
    with pytest.raises(JobError, match=r"no machine of the cluster with a CPU has more than 0\.2 GiB for tasks"):
        decompose(monkeypatch, head, {"CPU": 4, "memory": 0.2 * GIB}, {"CPU": 1, "memory": 0.1 * GIB})


@pytest.mark.parametrize(
    ("error", "told", "remedy"),
    [
        (WorkerCrashedError(), "its worker died 4 times: The worker died unexpectedly", "lower --memory"),
        (NODE_DIED, "its worker died 4 times: gone: node 7", "lower --memory"),
        (KILLED, "its machine has too little memory: Killed. Free 0", "lower --memory"),
        (
            RuntimeEnvSetupError("no pip"),
            ": RuntimeEnvSetupError: Failed to set up runtime environment. no pip",
            "same",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RayError) else "",
)
def test_what_ray_raises_is_told_as_what_it_is(
    error: RayError, told: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Task:
        def options(self, **_: object) -> Task:
            return self

        def remote(self, *_: object) -> object:
            return object()

    def get(_: object) -> None:
        raise error

    monkeypatch.setattr(tasks, "_decompose", Task())
    monkeypatch.setattr(ray, "wait", lambda running: (running, []))
    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(JobError) as failed:
        decompose(monkeypatch, {"CPU": 1, "memory": 100 * GIB})
    assert failed.value.message.startswith("layers.0.up could not be decomposed")
    assert told in failed.value.message
    assert remedy in failed.value.remedy
