"""A fleet whose replicas belong to Ray Serve, which starts, watches, replaces and counts them."""

from __future__ import annotations

import math
from typing import Any

from ray.exceptions import RayError
from ray.serve.config import AutoscalingContext
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from zfleet_cluster.fleet.client import Found
from zfleet_cluster.fleet.listener import Address

LOAD = "answers"
"""The figure by which Serve scales: what ``Replica.load`` counts."""
_FIND_SECONDS = 5.0


class ServeReplicas:
    """Finds the replicas of a deployment.

    Args:
        handle: Of a deployment of ``Replica``.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def find(self) -> Found:
        """As ``Replicas.find``: those that Serve counts as running."""
        try:
            answers = await self._handle.broadcast("address").results_async(
                timeout_s=_FIND_SECONDS, return_exceptions=True
            )
        except (RayError, RayServeException, TimeoutError):
            return Found(())  # none runs at this moment: Serve is about to start one
        return Found(tuple(answer for answer in answers if isinstance(answer, Address)))


class ReplicasForLoad:
    """A policy of Serve's autoscaling: as many replicas as the load asks for.

    Args:
        answers_each: Answers, running and waiting, that one replica is to have.
    """

    def __init__(self, answers_each: float) -> None:
        self._answers_each = answers_each

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas that Serve should run, and no state; Serve applies its bounds and delays."""
        loads = (context.aggregated_metrics or {}).get(LOAD, {})
        return math.ceil(sum(loads.values()) / self._answers_each), {}
