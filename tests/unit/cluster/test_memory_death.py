"""Which deaths of processes are told as a lack of memory, from the errors that Ray raises."""

from __future__ import annotations

from typing import Any

from ray.core.generated import common_pb2
from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError

from zfleet.errors import EngineError
from zfleet_cluster.errors import memory_death, original

MONITOR = """Task was killed due to the node running low on memory.
Memory on the node (IP: 10.0.0.1, ID: 4b2c) where the task (actor ID: 1f, name=RayTrainWorker.__init__, pid=31, memory used=6.85GB) was running was 22.80GB / 23.54GB (0.968), which exceeds the memory usage threshold of 0.95.
Refer to the documentation on how to address the out of memory issue."""  # noqa: E501


def died(text: str) -> ActorDiedError:
    messages: Any = common_pb2
    return ActorDiedError(messages.ActorDiedErrorContext(error_message=text, actor_id=b"1" * 16, pid=31))


def ended(text: str) -> OutOfMemoryError:
    return OutOfMemoryError(text)  # type: ignore[no-untyped-call]


def test_what_rays_memory_monitor_ends() -> None:
    said = "was ended, holding 6.85GB, because its machine ran out of memory"
    assert memory_death(ended(MONITOR)) == said
    assert memory_death(died(MONITOR)) == said
    assert memory_death(ended("no numbers")) == "was ended because its machine ran out of memory"


def test_what_the_kernel_ends() -> None:
    killed = died("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR")
    assert memory_death(killed) is None
    assert memory_death(killed, kernel_kills=1) == "died when the kernel ended a process because memory ran out"
    assert memory_death(WorkerCrashedError()) is None


def test_a_replica_that_dies_of_memory_is_told_with_our_keys() -> None:
    found = original(died(MONITOR), "a replica of the engine")
    assert isinstance(found, EngineError)
    assert found.message == ("a replica of the engine was ended, holding 6.85GB, because its machine ran out of memory")
    for key in ("engine.slots", "engine.max_length", "engine.vllm.cache_gib", "resources.memory"):
        assert key in found.remedy
    assert "RAY_" not in str(found)
