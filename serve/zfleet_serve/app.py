"""The Serve application: a gateway in front of an engine replica."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from fastapi import FastAPI
from ray import serve
from ray.serve import Application, Deployment
from ray.serve.handle import DeploymentHandle

from zfleet.config.load import parse_spec
from zfleet.config.specs import ServeSpec
from zfleet.errors import SpecError
from zfleet.models.bundle import BaseBundle, open_tokenizer, pack_base
from zfleet_cluster.fleet.host import engine_resources
from zfleet_registry import ExpertRegistry
from zfleet_serve.adaptive.experts import Experts
from zfleet_serve.adaptive.service import Served, Service
from zfleet_serve.base_store import fetch_text, publish_base
from zfleet_serve.engine_replica import EngineReplica
from zfleet_serve.handle_engine import HandleEngine
from zfleet_serve.http.bodies import body_limit
from zfleet_serve.http.gateway import create_app
from zfleet_serve.http.tokenizer_text import TokenizerText
from zfleet_serve.lasting_engine import LastingEngine

_ONGOING = 4096


@serve.deployment(name="gateway", max_ongoing_requests=_ONGOING, ray_actor_options={"num_cpus": 0})
@serve.ingress()
class Gateway:
    """The FastAPI application as a Serve deployment; it waits more than it computes, so it reserves no core.

    Args:
        spec: The service; its registry is a URI that this node reaches.
        name: The base's name.
        slug: The base's slug.
        store: Name of the ``BaseStore``.
        engine: Handle of the ``EngineReplica``.
    """

    def __init__(self, spec: ServeSpec, name: str, slug: str, store: str, engine: DeploymentHandle[Any]) -> None:
        self._spec = spec
        self._name = name
        self._slug = slug
        self._store = store
        self._handle = engine

    async def __serve_build_asgi_app__(self) -> FastAPI:
        spec = self._spec
        engine = LastingEngine(await HandleEngine.connect(self._handle))
        experts = Experts(partial(ExpertRegistry, spec.registry, reading=True), engine, self._slug, spec.alias)
        await experts.open()
        text = TokenizerText(open_tokenizer(await fetch_text(self._store)), engine.max_length)
        most = body_limit(spec.max_body_mib, engine.max_length)
        served = Served(self._name, engine.max_length, spec.classifier, spec.labels, spec.dispatch_prompt, most)
        return create_app(Service(engine, experts, text, served))


def build_app(spec: ServeSpec, bundle: BaseBundle) -> Application:
    """The application of a base that is packed; its base is published to the cluster.

    Args:
        spec: The service.
        bundle: Its base.
    """
    store, _ = publish_base(bundle)
    resources = dict(engine_resources(spec.engine, spec.resources))
    # Serve's decorators are typed as returning the plain classes.
    replica, gateway = cast(Deployment, EngineReplica), cast(Deployment, Gateway)
    engine = replica.options(ray_actor_options=resources).bind(spec, store)
    return gateway.bind(spec, bundle.name, bundle.slug, store, engine)


def build(args: Mapping[str, Any]) -> Application:
    """For Serve config files: ``args`` are the keys of a serve spec, read on the cluster.

    Raises:
        SpecError: A key or a value that a serve spec does not take, or no registry.
    """
    spec = parse_spec(dict(args), ServeSpec, "args")
    if spec.registry is None:
        raise SpecError("args name no registry", "give the URI of one that all nodes reach")
    return build_app(spec, pack_base(spec.base))
