"""Errors in OpenAI's form: clients raise their own exceptions from status, type and code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from zfleet.errors import BodyTooLarge, ExpertNotFound, InvalidRequest, RequestTooLong, TaskError, ZfleetError

Body = dict[str, Any]

_MOST_PROBLEMS = 5
_LONGEST_KEY = 80


class ErrorDetail(BaseModel):
    """What went wrong, and which option of the request it is about."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every response that is not 200."""

    error: ErrorDetail


def error_body(message: str, *, kind: str, code: str | None = None, param: str | None = None) -> Body:
    """``{"error": {...}}`` as OpenAI writes it."""
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code)).model_dump()


def describe(error: ZfleetError) -> tuple[int, Body]:
    """Status and body of an error: the caller's mistakes are 4xx, everything else is 500."""
    if isinstance(error, ExpertNotFound):
        return 404, error_body(str(error), kind="invalid_request_error", code="model_not_found", param="model")
    if isinstance(error, RequestTooLong):
        return 400, error_body(str(error), kind="invalid_request_error", code="context_length_exceeded")
    if isinstance(error, BodyTooLarge):
        return 413, error_body(str(error), kind="invalid_request_error", code="request_too_large")
    if isinstance(error, InvalidRequest | TaskError):
        return 400, error_body(str(error), kind="invalid_request_error")
    return 500, error_body(str(error), kind="server_error", code=type(error).__name__)


def describe_invalid(problems: Sequence[Any]) -> tuple[int, Body]:
    """Status and body of a request that does not fit its schema: the first problems, options by name."""
    parts = list(dict.fromkeys(_explain(problem) for problem in problems))
    if len(parts) > _MOST_PROBLEMS:
        parts[_MOST_PROBLEMS:] = [f"and {len(parts) - _MOST_PROBLEMS} more"]
    param = _place(problems[0]) or None
    return 400, error_body("; ".join(parts), kind="invalid_request_error", param=param)


def describe_unexpected(error: Exception) -> Body:
    """The body of a 500 whose cause is a defect: the log says more than clients should see."""
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
