"""The Serve deployment whose replicas run one engine each."""

from __future__ import annotations

from ray import serve

from zfleet.config.serve import ServeSpec
from zfleet_cluster.fleet.base import ShippedBase
from zfleet_cluster.fleet.replica import Replica
from zfleet_cluster.fleet.serve_replicas import LOAD


@serve.deployment(name="engine", health_check_period_s=5, graceful_shutdown_timeout_s=30)
class EngineReplica(Replica):
    """A replica that Serve holds. Requests reach it over the fleet's connections, not through Serve."""

    async def __init__(self, spec: ServeSpec, base: ShippedBase, token: bytes) -> None:  # type: ignore[misc]  # awaited
        """Open the base.

        Args:
            spec: The service.
            base: Its base.
            token: The secret of the fleet, which clients send.

        Raises:
            BaseModelError, FactorsError: The base or its factors cannot be opened.
            EngineError: The engine is not installed on this node, or cannot run this base.
        """
        super().__init__(spec.engine, spec.resources.torch_threads, token)
        await self.open(base)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve. Return the load, by which it scales."""
        return {LOAD: await self.load()}

    async def __del__(self) -> None:
        # Called by Serve when it takes the replica away. It no longer lists it, so gateways send nothing more.
        try:
            await self.drain()
        finally:
            await self.close()
