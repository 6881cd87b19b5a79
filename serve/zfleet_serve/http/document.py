"""The OpenAPI document of the endpoints: their bodies, and every status of their answers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from zfleet_serve.http.errors import ErrorBody

_STATUSES = {
    400: "The request cannot be answered: says which option, and why.",
    401: "No valid API key was given.",
    403: "The API key is not for what the request asks.",
    404: "There is no such model; says which there are.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the service reads.",
    429: "Too many requests: send it again later.",
    500: "The service failed; its log says more.",
    503: "The service, or what it needs, cannot answer now: send it again later.",
    504: "The request took longer than the service gives one.",
}
_ANY = (400, 401, 403, 429, 500, 503)
_SCHEMAS = "#/components/schemas/"


def refuses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of an endpoint: these statuses, and those that every endpoint may answer with."""
    return {status: {"model": ErrorBody, "description": _STATUSES[status]} for status in sorted({*statuses, *_ANY})}


def answers(body: type[BaseModel]) -> dict[str, Any]:
    """Build the options of FastAPI for an endpoint that generates.

    Args:
        body: The schema of the request's body, which the endpoint reads by itself.
    """
    stream = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
    options = takes(body)
    return options | {"response_model": None, "responses": {200: stream, **options["responses"]}}


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """Build the options of FastAPI for an endpoint that takes a body.

    Args:
        body: The schema of the request's body, which the endpoint reads by itself.
    """
    content = {"application/json": {"schema": {"$ref": f"{_SCHEMAS}{body.__name__}"}}}
    return {
        "responses": refuses(404, 408, 413, 504),
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


def document(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Add the bodies that endpoints read by themselves to the application's document."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        written = original()
        _, definitions = models_json_schema(
            [(body, "validation") for body in bodies], ref_template=_SCHEMAS + "{model}"
        )
        schemas = written["components"]["schemas"]
        schemas.update(definitions["$defs"])
        # FastAPI documents its own validation errors; here they are 400 and have another form.
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path in written["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return written

    app.openapi = openapi  # type: ignore[method-assign]
