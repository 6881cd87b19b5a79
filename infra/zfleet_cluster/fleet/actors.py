"""The pool: engines as Ray actors that all parts of a job share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet_cluster import undisturbed
from zfleet_cluster.capacity import check_room
from zfleet_cluster.errors import original
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_cluster.fleet.client import PoolEngine
from zfleet_cluster.fleet.host import engine_resources
from zfleet_cluster.fleet.link import WHO
from zfleet_cluster.fleet.replica import Member
from zfleet_cluster.fleet.watch import watched

_CLOSE_SECONDS = 30
# The engine queues by itself.
_ONGOING = 4096


@dataclass(frozen=True)
class EnginePool:
    """What a worker or an actor needs to use the pool; small, and travels anywhere in the cluster.

    Attributes:
        members: Actor handles.
        shipped: The base.
        max_length: The longest prompt and answer together, in tokens.
    """

    members: tuple[Any, ...]
    shipped: ShippedBase
    max_length: int

    def engine(self) -> PoolEngine:
        """A client of its own for whoever asks, to be used in one event loop."""
        return PoolEngine(self.members, self.shipped, self.max_length)


@contextmanager
def shared_pool(shipped: ShippedBase, engine: EngineSpec, resources: ResourceSpec) -> Iterator[EnginePool | None]:
    """The pool of a job inside the block; None where the spec's engine runs in every worker itself.

    Args:
        shipped: The base.
        engine: The job's engine.
        resources: What each process of an engine gets, and each worker of the job.

    Raises:
        JobError, ZfleetError: As ``engine_pool``.
    """
    if engine.kind == "torch":
        yield None
        return
    with engine_pool(shipped, engine, resources, engine.vllm.members) as pool:
        yield pool


@contextmanager
def engine_pool(
    shipped: ShippedBase, engine: EngineSpec, resources: ResourceSpec, members: int
) -> Iterator[EnginePool]:
    """Engines that run inside the block; a member that dies is started again.

    Args:
        shipped: The base.
        engine: The engine of each member.
        resources: What each process of an engine gets; as much stays free for one worker of the job.
        members: How many.

    Raises:
        JobError: Members and one worker do not fit the cluster.
        BaseModelError, FactorsError, EngineError: A member cannot open its engine.
    """
    each = engine_resources(engine, resources)
    check_room(each, members, resources)
    actor: Any = ray.remote(Member)
    options = {**each, "max_restarts": -1, "max_concurrency": _ONGOING}
    actors = tuple(actor.options(**options).remote(engine, resources.torch_threads) for _ in range(members))
    try:
        try:
            lengths = ray.get([one.open.remote(shipped) for one in actors])
        except RayError as error:
            raise original(error, WHO) from None
        with watched(actors):
            yield EnginePool(actors, shipped, min(lengths))
    finally:
        with undisturbed():
            _end(actors)


def _end(actors: tuple[Any, ...]) -> None:
    """Engines close what they started; then the actors end, whether they answered or not."""
    closing = [one.close.remote() for one in actors]
    # One that does not close ends with its actor; one that is dead keeps no other from closing.
    ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
    for one in actors:
        ray.kill(one)
