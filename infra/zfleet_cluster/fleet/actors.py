"""The fleet of a job: replicas as Ray actors that live as long as the job, and that all its parts share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet.errors import ZfleetError
from zfleet_cluster import undisturbed
from zfleet_cluster.capacity import check_room
from zfleet_cluster.errors import original
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_cluster.fleet.client import FleetEngine
from zfleet_cluster.fleet.links import Found
from zfleet_cluster.fleet.listener import Address
from zfleet_cluster.fleet.replica import Replica, engine_resources
from zfleet_cluster.fleet.watch import watched

TOKEN_BYTES = 32

_WHO = "a replica of the engine"

_BACK_SECONDS = 600
"""How long requests wait for a replica that died: it opens its base again."""
_CLOSE_SECONDS = 30
"""How long replicas may take to close."""
_FIND_SECONDS = 0.5
"""How long a look for replicas waits for those that are starting."""
_CALLS = 1000
"""How many calls a replica takes at once: some of them wait for its end."""


class ActorReplicas:
    """Finds the replicas that are actors.

    Args:
        actors: Handles of ``Replica`` actors.
        shipped: The base that they open, again after each start.
    """

    def __init__(self, actors: tuple[Any, ...], shipped: ShippedBase) -> None:
        self._actors = actors
        self._shipped = shipped
        self._asking: dict[int, asyncio.Task[Address]] = {}

    async def find(self) -> Found:
        """As ``Replicas.find``. An actor that Ray starts again answers when it has opened its engine."""
        for place, actor in enumerate(self._actors):
            if place not in self._asking:
                self._asking[place] = asyncio.create_task(_open(actor, self._shipped))
        await asyncio.wait(self._asking.values(), timeout=_FIND_SECONDS)
        answered = [self._asking.pop(place) for place, asking in list(self._asking.items()) if asking.done()]
        failures = [error for task in answered if (error := task.exception()) is not None]
        addresses = tuple(task.result() for task in answered if task.exception() is None)
        if failures and not addresses and not self._asking:
            if not isinstance(failures[0], ZfleetError):
                raise failures[0]
            return Found((), failures[0])
        return Found(addresses)


async def _open(actor: Any, shipped: ShippedBase) -> Address:
    try:
        # Ray repeats the call until the actor runs, and gives up if it has ended for good.
        address: Address = await actor.open.options(max_task_retries=-1).remote(shipped)
        return address
    except RayError as error:
        raise original(error, _WHO) from None


@dataclass(frozen=True)
class Fleet:
    """What a worker or an actor needs to use the replicas; small, and travels anywhere in the cluster.

    Attributes:
        actors: Handles of ``Replica`` actors.
        shipped: Their base.
        token: The secret of the fleet, which clients send.
        max_length: The longest prompt and answer together, in tokens.
    """

    actors: tuple[Any, ...]
    shipped: ShippedBase
    token: bytes = field(repr=False)
    max_length: int

    def engine(self) -> FleetEngine:
        """Make a client of its own for the caller, to be used in one event loop."""
        return FleetEngine(ActorReplicas(self.actors, self.shipped), self.token, self.max_length, _BACK_SECONDS)


@contextmanager
def shared_fleet(shipped: ShippedBase, engine: EngineSpec, resources: ResourceSpec) -> Iterator[Fleet | None]:
    """Run the fleet of a job inside the block. Yields None if the job's engine runs inside every worker.

    Args:
        shipped: The base.
        engine: The job's engine.
        resources: What each process of an engine gets, and each worker of the job.

    Raises:
        JobError, ZfleetError: As ``actor_fleet``.
    """
    if engine.kind == "torch":
        yield None
        return
    with actor_fleet(shipped, engine, resources, engine.vllm.members) as fleet:
        yield fleet


@contextmanager
def actor_fleet(shipped: ShippedBase, engine: EngineSpec, resources: ResourceSpec, replicas: int) -> Iterator[Fleet]:
    """Run replicas inside the block. A replica that dies is started again.

    Args:
        shipped: The base.
        engine: The engine of each replica.
        resources: What each process of an engine gets; as much stays free for one worker of the job.
        replicas: How many.

    Raises:
        JobError: The replicas and one worker do not fit the cluster.
        BaseModelError, FactorsError, EngineError: A replica cannot open its engine.
    """
    each = engine_resources(engine, resources)
    check_room(each, replicas, resources)
    token = secrets.token_bytes(TOKEN_BYTES)
    actor: Any = ray.remote(Replica)
    options = {**each, "max_restarts": -1, "max_concurrency": _CALLS}
    actors = tuple(actor.options(**options).remote(engine, resources.torch_threads, token) for _ in range(replicas))
    try:
        try:
            addresses = ray.get([actor.open.remote(shipped) for actor in actors])
        except RayError as error:
            raise original(error, _WHO) from None
        with watched(actors):
            yield Fleet(actors, shipped, token, min(address.max_length for address in addresses))
    finally:
        with undisturbed():
            _end(actors)


def _end(actors: tuple[Any, ...]) -> None:
    """Have the engines close their processes, then end the actors, whether they answered or not."""
    closing = [actor.close.remote() for actor in actors]
    # A dead replica does not keep the others from closing.
    ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
    for actor in actors:
        ray.kill(actor)
