"""A replica: one engine in a process of its own, which clients reach over a socket."""

from __future__ import annotations

import asyncio
import os
import socket

import ray.util
import torch

from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet.engine.contract import Engine
from zfleet.engine.open import open_engine
from zfleet_cluster.capacity import ray_options
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_cluster.fleet.listener import Address, Listener

_IDLE_LOOK_SECONDS = 0.1


class Replica:
    """Runs as a Ray actor; a Serve replica derives from it. ``open`` opens it, also after Ray has started it again.

    Args:
        engine: The engine.
        torch_threads: How many threads PyTorch uses in this process.
        token: The secret of the fleet, which clients send.
    """

    def __init__(self, engine: EngineSpec, torch_threads: int, token: bytes) -> None:
        torch.set_num_threads(torch_threads)
        self._spec = engine
        self._token = token
        self._opening = asyncio.Lock()
        self._listener: Listener | None = None
        self._address: Address | None = None

    async def open(self, base: ShippedBase) -> Address:
        """Open the engine and listen, unless that was done before, and return the address.

        Raises:
            BaseModelError, FactorsError: The base or its factors cannot be opened.
            EngineError: The engine is not installed on this node, or cannot run this base.
        """
        async with self._opening:
            if self._address is None:
                # The interface that Ray itself uses between nodes.
                host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
                listener = Listener(await self.start_engine(base), self._token)
                try:
                    self._address = await listener.start(host)
                except BaseException:
                    await listener.engine.close()  # the next call opens another one
                    raise
                self._listener = listener
            return self._address

    async def start_engine(self, base: ShippedBase) -> Engine:
        """Open the engine, for ``open``."""
        return await open_engine(await asyncio.to_thread(base.find), self._spec)

    async def address(self) -> Address | None:
        """Return where it listens; None while it is not open."""
        return self._address

    async def check_health(self) -> None:
        """Return if the engine is well or is still being opened.

        Raises:
            EngineError: The engine cannot answer any more.
        """
        if self._listener is not None:
            await self._listener.engine.check_health()

    async def load(self) -> int:
        """Count the answers that run or wait here, for all clients."""
        if self._listener is None:
            return 0
        stats = await self._listener.engine.stats()
        return stats.running + stats.waiting

    async def drain(self) -> None:
        """Wait until nothing runs or waits. Clients that see the replica leave send nothing more."""
        while await self.load():
            await asyncio.sleep(_IDLE_LOOK_SECONDS)

    async def close(self) -> None:
        """End the connections, the engine, and the processes of the engine."""
        async with self._opening:
            if self._listener is not None:
                await self._listener.close()
                await self._listener.engine.close()

    async def process(self) -> str:
        """Name its process and its machine."""
        return f"pid {os.getpid()} on {socket.gethostname()}"

    async def until_its_end(self) -> None:
        """Never return: the call fails when this process dies."""
        await asyncio.Event().wait()


def engine_resources(engine: EngineSpec, resources: ResourceSpec) -> dict[str, float]:
    """Return Ray's options for the resources of an engine, summed over the processes that it is split over."""
    return ray_options(resources.times(engine.vllm.tensor_parallel))
