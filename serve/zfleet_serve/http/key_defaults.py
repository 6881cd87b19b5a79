"""Reading a body as its API key says: with a model of its own, and with or without unknown fields."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from zfleet_serve.access.context import RequestContext

B = TypeVar("B", bound=BaseModel)

_EXTRA = "extra_forbidden"


def parse_body(kind: type[B], data: bytes, context: RequestContext) -> B:
    """Read a body. Fields that a lenient key lets pass are noted in its context.

    Args:
        kind: The schema.
        data: The body, in JSON.
        context: The request.

    Raises:
        ValidationError: The body does not fit.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        if context.key is None:
            raise
        settings, problems = context.key.settings, error.errors(include_url=False, include_input=False)
        if settings.default_model is not None and ("model",) in [
            problem["loc"] for problem in problems if problem["type"] == "missing"
        ]:
            data = json.dumps(json.loads(data) | {"model": settings.default_model}).encode()
            problems = [problem for problem in problems if problem["loc"] != ("model",)]
        unknown = [".".join(map(str, problem["loc"])) for problem in problems if problem["type"] == _EXTRA]
        if not settings.lenient or not unknown:
            return kind.model_validate_json(data)
        body = kind.model_validate_json(data, extra="ignore")
        context.ignored = tuple(unknown)
        return body
