"""The Serve application: gateways that speak HTTP in front of a fleet of engine replicas."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from zfleet.config.load import parse_spec
from zfleet.config.specs import ServeSpec
from zfleet.errors import SpecError
from zfleet.models.bundle import BaseBundle, open_tokenizer, pack_base
from zfleet_cluster.fleet.actors import TOKEN_BYTES
from zfleet_cluster.fleet.client import FleetEngine
from zfleet_cluster.fleet.replica import engine_resources
from zfleet_cluster.fleet.serve_replicas import ServeReplicas
from zfleet_cluster.fleet.stored_base import StoredBase, publish_base
from zfleet_registry import ExpertRegistry
from zfleet_serve.adaptive.experts import Experts
from zfleet_serve.adaptive.service import Served, Service
from zfleet_serve.engine_replica import EngineReplica
from zfleet_serve.http.bodies import body_limit
from zfleet_serve.http.gateway import create_app
from zfleet_serve.http.server import HttpServer
from zfleet_serve.http.tokenizer_text import TokenizerText

_WAIT_SECONDS = 60
"""How long a request waits while no replica answers: one that died is replaced within that time."""
_HEAD_NODE = {"node:__internal_head__": 0.001}
"""Ray's name for the node where clients find the port."""
_FULL = 0.75
"""The share of an engine's slots that is to be busy: with more, Serve starts another replica where it may."""


@dataclass(frozen=True)
class ServedBase:
    """What a gateway needs to know of the base.

    Attributes:
        name: What requests call it.
        slug: Its part of experts' registered names.
        max_length: The longest prompt and answer together, in tokens.
        stored: Where its tokenizer comes from.
    """

    name: str
    slug: str
    max_length: int
    stored: StoredBase


@serve.deployment(name="gateway", health_check_period_s=5)
class Gateway:
    """Listens for HTTP itself: between a client and the engine stand this process and one connection."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, spec: ServeSpec, base: ServedBase, token: bytes, engines: DeploymentHandle[Any]
    ) -> None:
        """Listen when everything is known that requests need.

        Args:
            spec: The service; its registry is a URI that this node reaches.
            base: Its base.
            token: The fleet's.
            engines: The deployment of ``EngineReplica``.

        Raises:
            ServeError: The port is in use.
        """
        self._engine = FleetEngine(ServeReplicas(engines), token, base.max_length, _WAIT_SECONDS)
        registry = partial(ExpertRegistry, spec.registry, reading=True)
        self._experts = Experts(registry, self._engine, base.slug, spec.alias)
        await self._experts.open()
        text = TokenizerText(open_tokenizer(await base.stored.text()), base.max_length)
        limit = body_limit(spec.max_body_mib, base.max_length)
        served = Served(base.name, base.max_length, spec.classifier, spec.labels, spec.dispatch_prompt, limit)
        app = create_app(Service(self._engine, self._experts, text, served))
        self._server = HttpServer(app, spec.host, spec.port)
        await self._server.start()

    async def check_health(self) -> None:
        """As Serve asks for it: a gateway that does not listen is replaced."""
        self._server.check()

    async def __del__(self) -> None:
        await self._server.stop()
        await self._experts.close()
        await self._engine.close()


def build_app(spec: ServeSpec, bundle: BaseBundle) -> Application:
    """The application of a base that is packed; its base is published to the cluster.

    Args:
        spec: The service.
        bundle: Its base.
    """
    store, _ = publish_base(bundle)
    stored, token = StoredBase(store), secrets.token_bytes(TOKEN_BYTES)
    base = ServedBase(bundle.name, bundle.slug, spec.engine.longest(bundle.context), stored)
    # Serve's decorators are typed as returning the plain classes.
    replica, gateway = cast(Deployment, EngineReplica), cast(Deployment, Gateway)
    engines = replica.options(
        ray_actor_options=dict(engine_resources(spec.engine, spec.resources)), **_replicas(spec)
    ).bind(spec, stored, token)
    # A gateway waits more than it computes: it reserves no core.
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
    """For Serve config files: ``args`` are the keys of a serve spec, read on the cluster.

    Raises:
        SpecError: A key or a value that a serve spec does not take, or no registry.
    """
    spec = parse_spec(dict(args), ServeSpec, "args")
    if spec.registry is None:
        raise SpecError("args name no registry", "give the URI of one that all nodes reach")
    return build_app(spec, pack_base(spec.base))
