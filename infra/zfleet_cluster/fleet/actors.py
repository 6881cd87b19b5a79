"""A fleet for as long as a job runs: replicas as Ray actors that all parts of the job share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet.errors import ZfleetError
from zfleet_cluster import undisturbed
from zfleet_cluster.capacity import check_room
from zfleet_cluster.errors import original
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_cluster.fleet.client import FleetEngine, Found
from zfleet_cluster.fleet.listener import Address
from zfleet_cluster.fleet.replica import Replica, engine_resources
from zfleet_cluster.fleet.watch import watched

TOKEN_BYTES = 32
WHO = "a replica of the engine"

_BACK_SECONDS = 600
"""How long requests wait for a replica that died: it opens its base again."""
_CLOSE_SECONDS = 30
_FIND_SECONDS = 0.5
# Calls to a replica are few, and some of them wait for its end.
_CALLS = 1000


class ActorReplicas:
    """Finds the replicas that are actors.

    Args:
        actors: Handles of ``Replica`` actors.
        shipped: The base that they open: one that was started again has none.
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
            assert isinstance(failures[0], ZfleetError)
            return Found((), failures[0])
        return Found(addresses)


async def _open(actor: Any, shipped: ShippedBase) -> Address:
    try:
        # Ray asks again until the actor runs, and gives up where it has ended for good.
        address: Address = await actor.open.options(max_task_retries=-1).remote(shipped)
        return address
    except RayError as error:
        raise original(error, WHO) from None


@dataclass(frozen=True)
class Fleet:
    """What a worker or an actor needs to use the replicas; small, and travels anywhere in the cluster.

    Attributes:
        actors: Handles of ``Replica`` actors.
        shipped: Their base.
        token: Clients present it.
        max_length: The longest prompt and answer together, in tokens.
    """

    actors: tuple[Any, ...]
    shipped: ShippedBase
    token: bytes
    max_length: int

    def engine(self) -> FleetEngine:
        """A client of its own for whoever asks, to be used in one event loop."""
        return FleetEngine(ActorReplicas(self.actors, self.shipped), self.token, self.max_length, _BACK_SECONDS)


@contextmanager
def shared_fleet(shipped: ShippedBase, engine: EngineSpec, resources: ResourceSpec) -> Iterator[Fleet | None]:
    """The fleet of a job inside the block; None where the spec's engine runs in every worker itself.

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
    """Replicas that run inside the block; one that dies is started again.

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
            raise original(error, WHO) from None
        with watched(actors):
            yield Fleet(actors, shipped, token, min(address.max_length for address in addresses))
    finally:
        with undisturbed():
            _end(actors)


def _end(actors: tuple[Any, ...]) -> None:
    """Have the engines close what they started; then the actors end, whether they answered or not."""
    closing = [actor.close.remote() for actor in actors]
    # One that does not close ends with its actor; one that is dead keeps no other from closing.
    ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
    for actor in actors:
        ray.kill(actor)
