"""The Serve application: gateways that speak HTTP in front of a fleet of engine replicas."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, cast

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from zfleet.config.load import parse_spec
from zfleet.config.public_keys import read_public_keys
from zfleet.config.serve import ServeSpec
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
from zfleet_serve.telemetry import RequestLog, Telemetry
from zfleet_serve.telemetry.scrape import FOLDER

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
            spec: The service; its registry is a URI that this node reaches, and it has the text of its public keys.
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
        registry = partial(ExpertRegistry, spec.registry, reading=True, require_signed_by=spec.require_signed_by)
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
            mixture_experts=spec.mixture_experts,
            dispatcher=spec.dispatcher,
        )
        self._telemetry = Telemetry(base.name, RequestLog(spec.request_log, spec.log_texts))
        self._service = Service(self._engine, self._experts, text, served)
        app = create_app(self._service, self._access, self._telemetry)
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
        await self._service.shadows.close()
        await self._directions.stop()
        await self._experts.close()
        await self._access.close()
        await asyncio.to_thread(self._telemetry.close)


def build_app(spec: ServeSpec, bundle: BaseBundle) -> Application:
    """Build the application that serves a base.

    Args:
        spec: The service, with the text of its public keys.
        bundle: Its base. Nodes that do not have it bring its files from this one, also when replicas start again.
    """
    shipped, token = ship(bundle), secrets.token_bytes(TOKEN_BYTES)
    base = ServedBase(bundle.name, bundle.slug, spec.engine.longest(bundle.context), shipped)
    # Serve's decorators are typed as returning the plain classes.
    replica, gateway = cast(Deployment, EngineReplica), cast(Deployment, Gateway)
    engines = replica.options(
        ray_actor_options=dict(engine_resources(spec.engine, spec.resources)), **_replicas(spec)
    ).bind(spec, shipped, token)
    # A gateway waits more than it computes, so it reserves no core. Any of them answers for the counts of all.
    counts = str(Path(tempfile.gettempdir()) / f"zfleet-metrics-{secrets.token_hex(8)}")
    options = {"num_cpus": 0, "resources": _HEAD_NODE, "runtime_env": {"env_vars": {FOLDER: counts}}}
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
        SpecError: A key or a value is not allowed in a serve spec, there is no registry, or a file of a public key
            cannot be read.
    """
    spec = parse_spec(dict(args), ServeSpec, "args")
    if spec.registry is None:
        raise SpecError("args name no registry", "give the URI of one that all nodes reach")
    spec = spec.model_copy(update={"require_signed_by": read_public_keys(spec.require_signed_by)})
    return build_app(resolve_engine(spec), pack_base(spec.base))
