"""The Serve deployment that holds the engine: the base once, and every expert that was put as a row of numbers."""

from __future__ import annotations

import torch
from ray import serve

from zfleet.config.specs import ServeSpec
from zfleet.engine.open import open_engine
from zfleet_cluster.fleet.host import EngineHost
from zfleet_serve.base_store import fetch_bundle

# The engine queues by itself; Serve's default of 5 would keep its batches empty.
_ONGOING = 4096


@serve.deployment(name="engine", max_ongoing_requests=_ONGOING, health_check_period_s=5)
class EngineReplica(EngineHost):
    """An engine behind a handle; ``HandleEngine`` is its other end.

    One replica: a z is put where it is used. Several would each have to be given every z.
    """

    async def __init__(self, spec: ServeSpec, store: str) -> None:  # type: ignore[misc]  # Serve awaits it
        """Open the base.

        Args:
            spec: The service.
            store: Name of the ``BaseStore`` that holds the base.

        Raises:
            BaseModelError, FactorsError: The base or its factors cannot be opened.
            EngineError: The engine is not installed on this node, or cannot run this base.
        """
        torch.set_num_threads(spec.resources.torch_threads)
        self.opened = await open_engine(await fetch_bundle(store), spec.engine)
