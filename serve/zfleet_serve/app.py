"""The Serve application: gateways that speak HTTP in front of a fleet of engine replicas."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, cast

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from zfleet.config.load import parse_spec
from zfleet.config.specs import ServeSpec
from zfleet.engine.choose import resolve_engine
from zfleet.errors import SpecError
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet_cluster.fleet.actors import TOKEN_BYTES
from zfleet_cluster.fleet.base import ShippedBase, ship
from zfleet_cluster.fleet.client import FleetEngine
from zfleet_cluster.fleet.replica import engine_resources
from zfleet_cluster.fleet.serve_replicas import ServeReplicas
from zfleet_registry import ExpertRegistry
from zfleet_serve.access.control import AccessControl
from zfleet_serve.access.engine import LimitedEngine
from zfleet_serve.access.fair_queue import FairQueue
from zfleet_serve.adaptive.directions import DirectionsForExperts
from zfleet_serve.adaptive.experts import Experts
from zfleet_serve.adaptive.service import Service
from zfleet_serve.adaptive.settings import Served
from zfleet_serve.engine_replica import EngineReplica
from zfleet_serve.http.bodies import body_limit
from zfleet_serve.http.gateway import create_app
from zfleet_serve.http.server import HttpServer
from zfleet_serve.http.tokenizer_text import TokenizerText

_WAIT_SECONDS = 60
"""How long a request waits while no replica answers: Serve replaces a dead one within that time."""
_HEAD_NODE = {"node:__internal_head__": 0.001}
"""Ray's resource of the head node, where clients expect the port."""
_FULL = 0.75
"""The share of an engine's slots that should be busy: with more, Serve starts another replica within its bounds."""
_AHEAD = 1.25
"""Answers that a gateway sends to an engine, in times of its slots: the next ones are there when some have ended."""


@dataclass(frozen=True)
class ServedBase:
    """The base, as gateways know it.

    Attributes:
        name: Its name in requests.
        slug: Its part of experts' registered names.
        max_length: The longest prompt and answer together, in tokens.
        shipped: The base itself, for its tokenizer.
    """

    name: str
    slug: str
    max_length: int
    shipped: ShippedBase


@serve.deployment(name="gateway", health_check_period_s=5)
class Gateway:
    """Listens for HTTP itself: only this process and one connection are between a client and an engine."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, spec: ServeSpec, base: ServedBase, token: bytes, engines: DeploymentHandle[Any]
    ) -> None:
        """Load the tokenizer, open the registry, and listen.

        Args:
            spec: The service; its registry is a URI that this node reaches.
            base: Its base.
            token: The secret of the fleet.
            engines: The handle of the deployment of ``EngineReplica``.

        Raises:
            ServeError: The port is in use, or certificate and key cannot be used.
            KeysError: The keys cannot be read, or Redis does not answer.
        """
        self._fleet = fleet = FleetEngine(ServeReplicas(engines), token, base.max_length, _WAIT_SECONDS)
        self._access = AccessControl(spec.keys, spec.redis, spec.deadline_seconds)
        await self._access.open()

        def capacity() -> int:
            return ceil(_AHEAD * spec.engine.slots * max(1, fleet.replicas))

        queue = FairQueue(capacity, spec.max_waiting, spec.max_waiting_per_client)
        self._engine = LimitedEngine(fleet, queue, self._access.rates)
        registry = partial(ExpertRegistry, spec.registry, reading=True)
        self._experts = Experts(registry, self._engine, base.slug, spec.alias)
        await self._experts.open()
        text = TokenizerText(await asyncio.to_thread(base.shipped.tokenizer), base.max_length)
        limit = body_limit(spec.max_body_mib, base.max_length)
        approximate = spec.engine.vllm.form.delta is not None
        served = Served(
            base=base.name,
            max_length=base.max_length,
            classifier=spec.classifier,
            labels=spec.labels,
            ask=spec.dispatch_prompt,
            max_body=limit,
            approximate=approximate,
            dispatcher=spec.dispatcher,
        )
        app = create_app(Service(self._engine, self._experts, text, served), self._access)
        self._directions = DirectionsForExperts(self._experts, self._engine)
        if approximate:
            self._directions.start()
        self._server = HttpServer(app, spec.host, spec.port, spec.tls)
        await self._server.start()

    async def check_health(self) -> None:
        """Called by Serve, which replaces a gateway whose server or whose background work has ended.

        Raises:
            ServeError, EngineError: Says what has ended.
        """
        self._server.check()
        self._fleet.check_links()
        self._experts.check()
        self._access.check()

    async def choose_directions(self) -> int:
        """Have the engines choose the directions of form ``delta`` again, as ``DirectionsForExperts.choose``.

        For people, through a handle of the application: ``serve.get_app_handle("zfleet").choose_directions.remote()``.
        """
        return await self._directions.choose(again=True)

    async def __del__(self) -> None:
        # Called by Serve when it takes the gateway away. Requests under way need the engine and the registry.
        await self._server.stop(self._engine.close)
        await self._directions.stop()
        await self._experts.close()
        await self._access.close()


def build_app(spec: ServeSpec, bundle: BaseBundle) -> Application:
    """Build the application that serves a base.

    Args:
        spec: The service.
        bundle: Its base. Nodes that do not have it bring its files from this one, also when replicas start again.
    """
    shipped, token = ship(bundle), secrets.token_bytes(TOKEN_BYTES)
    base = ServedBase(bundle.name, bundle.slug, spec.engine.longest(bundle.context), shipped)
    # Serve's decorators are typed as returning the plain classes.
    replica, gateway = cast(Deployment, EngineReplica), cast(Deployment, Gateway)
    engines = replica.options(
        ray_actor_options=dict(engine_resources(spec.engine, spec.resources)), **_replicas(spec)
    ).bind(spec, shipped, token)
    # A gateway waits more than it computes, so it reserves no core.
    options = {"num_cpus": 0, "resources": _HEAD_NODE}
    return gateway.options(ray_actor_options=options, num_replicas=spec.gateways).bind(spec, base, token, engines)


def _replicas(spec: ServeSpec) -> dict[str, Any]:
    if spec.max_replicas is None:
        return {"num_replicas": spec.replicas}
    policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]
        policy_function="zfleet_cluster.fleet.serve_replicas:ReplicasForLoad",
        policy_kwargs={"answers_each": _FULL * spec.engine.slots},
    )
    bounds = AutoscalingConfig(min_replicas=spec.replicas, max_replicas=spec.max_replicas, policy=policy)
    return {"autoscaling_config": bounds}


def build(args: Mapping[str, Any]) -> Application:
    """Build the application from a Serve config file, whose ``args`` are the keys of a serve spec.

    Raises:
        SpecError: A key or a value is not allowed in a serve spec, or there is no registry.
    """
    spec = parse_spec(dict(args), ServeSpec, "args")
    if spec.registry is None:
        raise SpecError("args name no registry", "give the URI of one that all nodes reach")
    return build_app(resolve_engine(spec), pack_base(spec.base))
