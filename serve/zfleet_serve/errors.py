"""Errors in OpenAI's form: clients raise their own exceptions from status, type and code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zfleet.errors import ExpertNotFound, InvalidRequest, RequestTooLong, TaskError, ZfleetError

Body = dict[str, Any]


def error_body(message: str, *, kind: str, code: str | None = None, param: str | None = None) -> Body:
    """``{"error": {...}}`` as OpenAI writes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def describe(error: ZfleetError) -> tuple[int, Body]:
    """Status and body of an error: the caller's mistakes are 4xx, everything else is 500."""
    if isinstance(error, ExpertNotFound):
        return 404, error_body(str(error), kind="invalid_request_error", code="model_not_found", param="model")
    if isinstance(error, RequestTooLong):
        return 400, error_body(str(error), kind="invalid_request_error", code="context_length_exceeded")
    if isinstance(error, InvalidRequest | TaskError):
        return 400, error_body(str(error), kind="invalid_request_error")
    return 500, error_body(str(error), kind="server_error", code=type(error).__name__)


def describe_invalid(problems: Sequence[Any]) -> tuple[int, Body]:
    """Status and body of a request that does not fit its schema: every problem, options by name."""
    parts = [_explain(problem) for problem in problems]
    param = _place(problems[0]) or None
    return 400, error_body("; ".join(dict.fromkeys(parts)), kind="invalid_request_error", param=param)


def describe_unexpected(error: Exception) -> Body:
    """The body of a 500 whose cause is a defect: the log says more than clients should see."""
    return error_body(f"internal error: {type(error).__name__}", kind="server_error", code="internal_error")


def _explain(problem: dict[str, Any]) -> str:
    where = _place(problem)
    if problem["type"] == "extra_forbidden":
        return f"option {where!r} is not supported"
    if problem["type"] == "missing":
        return f"{where or 'body'} is missing"
    if problem["type"] == "json_invalid":
        return "the body is no JSON"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _place(problem: dict[str, Any]) -> str:
    return ".".join(str(part) for part in problem["loc"] if part != "body") if problem["type"] != "json_invalid" else ""
