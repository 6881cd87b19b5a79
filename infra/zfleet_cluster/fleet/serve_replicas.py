"""A fleet whose replicas belong to Ray Serve, which starts, watches, replaces and counts them."""

from __future__ import annotations

import math
from typing import Any

from ray.exceptions import RayError
from ray.serve.config import AutoscalingContext
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from zfleet_cluster.fleet.links import Found
from zfleet_cluster.fleet.listener import Address

LOAD = "answers"
"""The metric by which Serve scales, which is ``Replica.load``."""

_FIND_SECONDS = 5.0
"""How long a look for replicas waits for their addresses. A replica that does not answer hides the others as long."""


class ServeReplicas:
    """Finds the replicas of a deployment.

    Args:
        handle: The handle of a deployment of ``Replica``.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def find(self) -> Found:
        """As ``Replicas.find``. Return the replicas that Serve counts as running."""
        try:
            answers = await self._handle.broadcast("address").results_async(
                timeout_s=_FIND_SECONDS, return_exceptions=True
            )
        except (RayError, RayServeException, TimeoutError):
            return Found(())  # none runs now, and Serve starts one
        return Found(tuple(answer for answer in answers if isinstance(answer, Address)))


class ReplicasForLoad:
    """A policy of Serve's autoscaling: the number of replicas follows the load.

    Args:
        answers_each: How many answers, running and waiting, one replica shall have.
    """

    def __init__(self, answers_each: float) -> None:
        self._answers_each = answers_each

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas that the load needs, and no state. Serve applies its bounds and delays."""
        loads = (context.aggregated_metrics or {}).get(LOAD, {})
        return math.ceil(sum(loads.values()) / self._answers_each), {}
