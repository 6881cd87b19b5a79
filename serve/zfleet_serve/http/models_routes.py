"""The models of the service, as OpenAI and, where it says more, vLLM list them."""

from __future__ import annotations

import time

from fastapi import APIRouter

from zfleet_serve.adaptive.models import ServedModel
from zfleet_serve.adaptive.service import Service
from zfleet_serve.http.document import refuses
from zfleet_serve.http.messages import Wire


class ModelDetails(Wire):
    """What zfleet says of a model.

    Attributes:
        kind: ``base``, ``auto``, ``expert``, ``mixture`` or ``dispatcher``.
        version: What the name means now.
        versions: All that there are of its expert or dispatcher.
        aliases: {alias: version}.
        z: The digest of the z that it means.
        truncation_error: What an approximate form of the linears leaves out of that z; null if it was not measured.
    """

    kind: str
    version: int | None
    versions: list[int]
    aliases: dict[str, int]
    z: str | None
    truncation_error: float | None


class Model(Wire):
    """A model. As vLLM lists adapters, ``parent`` is the base, and ``root`` is what the name means now."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "zfleet"
    root: str
    parent: str | None
    max_model_len: int
    zfleet: ModelDetails


class ModelList(Wire):
    """All models by their bare names."""

    object: str = "list"
    data: list[Model]


def models_routes(service: Service) -> APIRouter:
    """Build the routes that list models."""
    router = APIRouter()
    started = int(time.time())
    base = service.served.base

    def written(model: ServedModel, errors: dict[str, float]) -> Model:
        version = model.version
        return Model(
            id=model.name,
            created=started if model.created is None else int(model.created.timestamp()),
            root=base if version is None else f"{base}:{version.reference}",
            parent=None if version is None else base,
            max_model_len=service.served.max_length,
            zfleet=ModelDetails(
                kind=model.kind,
                version=None if version is None else version.version,
                versions=list(model.versions),
                aliases=dict(model.aliases or {}),
                z=model.z or None,
                truncation_error=errors.get(model.z),
            ),
        )

    @router.get("/v1/models", responses=refuses())
    async def models() -> ModelList:
        found, errors = await service.models.all(), await service.errors()
        return ModelList(data=[written(model, errors) for model in found])

    # A path: versions have a slash in their names.
    @router.get("/v1/models/{model:path}", responses=refuses(404))
    async def model(model: str) -> Model:
        return written(await service.models.find(model), await service.errors())

    return router
