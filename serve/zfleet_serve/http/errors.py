"""Errors in OpenAI's form: clients raise their own exceptions from status, type and code."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from zfleet.errors import (
    BodyTooLarge,
    CorruptArtifact,
    DeadlineExceeded,
    DispatcherError,
    EngineError,
    ExpertNotFound,
    InvalidRequest,
    KeysError,
    LimitReached,
    NotAllowed,
    NotAuthenticated,
    Overloaded,
    RegistryError,
    RegistryUnreachable,
    RequestTooLong,
    TaskError,
    UntrustedVersion,
    WrongBase,
    ZfleetError,
    ZVectorError,
)
from zfleet_serve.adaptive.names import ModelNotFound
from zfleet_serve.http.request_ids import request_log

Body = dict[str, Any]
_LOG = request_log(__name__)

_REMEDY = "the log of the service says more; another model may answer"
_FOR_CLIENTS: dict[type[ZfleetError], str] = {
    ExpertNotFound: "there is no such model (GET /v1/models lists those that there are)",
    CorruptArtifact: f"this expert's file is missing or damaged ({_REMEDY})",
    UntrustedVersion: f"this expert's version is not signed by anyone whom this service trusts ({_REMEDY})",
    WrongBase: f"this expert was trained on another base, or on other factors ({_REMEDY})",
    DispatcherError: f"the dispatcher that chooses who answers cannot be used ({_REMEDY})",
    ZVectorError: f"this expert's z cannot be used ({_REMEDY})",
    RegistryError: f"the registry of experts cannot say what this model is ({_REMEDY})",
    EngineError: "the engine failed at this request (send it again)",
    ZfleetError: f"the service cannot answer this request ({_REMEDY})",
}
"""The text for clients of errors whose own text may name files and addresses of the server."""
_PLACE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:/{2}\S+|(?<![\w/.])/[^\s/'\":,;)]+/[^\s'\":,;)]*")
"""URIs, and absolute paths of at least two parts."""


_MOST_PROBLEMS = 5
_LONGEST_KEY = 80


class ErrorDetail(BaseModel):
    """The error, and the option of the request that it is about."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is not 200."""

    error: ErrorDetail


def error_body(message: str, *, kind: str, code: str | None = None, param: str | None = None) -> Body:
    """Build ``{"error": {...}}`` in OpenAI's form."""
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code)).model_dump()


def describe(error: ZfleetError) -> tuple[int, Body]:
    """Return status and body of an error: 4xx for the caller's mistakes, 503 if the registry is away, otherwise 500.

    Only the text of the caller's own mistakes is sent. The text of other errors may name files and addresses of the
    server: it is logged, and the client gets a text about the request.
    """
    if isinstance(error, RequestTooLong):
        return 400, _refusal(error, "context_length_exceeded")
    if isinstance(error, BodyTooLarge):
        return 413, _refusal(error, "request_too_large")
    if isinstance(error, InvalidRequest | TaskError):
        return 400, _refusal(error)
    if isinstance(error, ModelNotFound):
        return 404, _refusal(error, "model_not_found", error.param)
    if (limited := _describe_limited(error)) is not None:
        return limited
    _LOG.error("%s: %s", type(error).__name__, error)
    if isinstance(error, KeysError):
        message = "API keys cannot be checked now (try again)"
        return 503, error_body(message, kind="server_error", code="keys_unavailable")
    if isinstance(error, RegistryUnreachable):
        message = f"this model is not loaded, and the registry of experts is away: {public(error.reason)} (try again)"
        return 503, error_body(message, kind="server_error", code="registry_unavailable", param="model")
    said = next(_FOR_CLIENTS[kind] for kind in type(error).__mro__ if kind in _FOR_CLIENTS)
    if isinstance(error, ExpertNotFound):
        return 404, error_body(said, kind="invalid_request_error", code="model_not_found", param="model")
    param = "model" if isinstance(error, RegistryError | ZVectorError | DispatcherError) else None
    return 500, error_body(said, kind="server_error", code=type(error).__name__, param=param)


def _describe_limited(error: ZfleetError) -> tuple[int, Body] | None:
    """Return status and body of an error of access control; None for others."""
    match error:
        case NotAuthenticated():
            return 401, _refusal(error, "invalid_api_key")
        case NotAllowed():
            return 403, _refusal(error, "permission_denied")
        case LimitReached(budget=True):
            return 429, _refusal(error, "insufficient_quota", kind="insufficient_quota")
        case LimitReached() | Overloaded(own=True):
            return 429, _refusal(error, "rate_limit_exceeded", kind="rate_limit_error")
        case Overloaded():
            return 503, _refusal(error, "overloaded", kind="server_error")
        case DeadlineExceeded():
            return 504, _refusal(error, "deadline_exceeded", kind="server_error")
    return None


def error_response(error: ZfleetError) -> JSONResponse:
    """Build the response of an error that ends a request before its answer begins."""
    status, body = describe(error)
    headers = {}
    if isinstance(error, LimitReached | Overloaded):
        headers["Retry-After"] = str(math.ceil(error.retry_seconds))
    elif status == 503:
        headers["Retry-After"] = "1"
    elif status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status, headers)


def public(text: str) -> str:
    """Return a text without its URIs and paths."""
    return _PLACE.sub("...", text)


def _refusal(
    error: ZfleetError, code: str | None = None, param: str | None = None, kind: str = "invalid_request_error"
) -> Body:
    return error_body(public(str(error)), kind=kind, code=code, param=param)


def describe_invalid(problems: Sequence[Any]) -> tuple[int, Body]:
    """Return status and body for a request that does not fit its schema: the first problems, with their options."""
    parts = list(dict.fromkeys(_explain(problem) for problem in problems))
    if len(parts) > _MOST_PROBLEMS:
        parts[_MOST_PROBLEMS:] = [f"and {len(parts) - _MOST_PROBLEMS} more"]
    param = _place(problems[0]) or None
    return 400, error_body("; ".join(parts), kind="invalid_request_error", param=param)


def describe_unexpected(error: Exception) -> Body:
    """Return the body of a 500 whose cause is a defect. The log says more than clients should see."""
    return error_body(f"internal error: {type(error).__name__}", kind="server_error", code="internal_error")


def _explain(problem: dict[str, Any]) -> str:
    where = _place(problem)
    if problem["type"] == "extra_forbidden":
        return f"option {where!r} is not supported"
    if problem["type"] == "missing":
        return f"{where or 'body'} is missing"
    message = str(problem["msg"])
    if problem["type"] == "json_invalid":
        return f"the body is no JSON: {message.removeprefix('Invalid JSON: ')}"
    if problem["type"] == "model_type":
        return f"{where or 'the body'} must be an object"
    message = message.removeprefix("Value error, ").replace("Input should be", "it must be")
    return f"{where}: {message}" if where else message


def _place(problem: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    return place if len(place) <= _LONGEST_KEY else f"{place[:_LONGEST_KEY]}..."
