"""The Serve deployment whose replicas hold an engine each: the base once, every expert a row of numbers."""

from __future__ import annotations

from ray import serve

from zfleet.config.specs import ServeSpec
from zfleet_cluster.fleet.replica import Replica
from zfleet_cluster.fleet.serve_replicas import LOAD
from zfleet_cluster.fleet.stored_base import StoredBase


@serve.deployment(name="engine", health_check_period_s=5, graceful_shutdown_timeout_s=30)
class EngineReplica(Replica):
    """A replica that Serve holds. Requests reach it over the fleet's connections, not through Serve."""

    async def __init__(self, spec: ServeSpec, base: StoredBase, token: bytes) -> None:  # type: ignore[misc]  # awaited
        """Open the base.

        Args:
            spec: The service.
            base: Its base.
            token: The fleet's: clients present it.

        Raises:
            BaseModelError, FactorsError: The base or its factors cannot be opened.
            EngineError: The engine is not installed on this node, or cannot run this base.
        """
        super().__init__(spec.engine, spec.resources.torch_threads, token)
        await self.open(base)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve scales by."""
        return {LOAD: await self.load()}

    async def __del__(self) -> None:
        # Called by Serve when it takes a replica away; gateways send nothing more to one that it does not list.
        await self.drain()
        await self.close()
