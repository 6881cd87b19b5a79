"""Errors of Ray, and errors that arrive through a Ray call, as messages of zfleet."""

from __future__ import annotations

from collections.abc import Iterable

from ray.exceptions import RayTaskError

from zfleet.errors import EngineError, ZfleetError


def original(error: Exception, who: str) -> ZfleetError:
    """Return the ``ZfleetError`` that the other side of a Ray call raised, or an ``EngineError`` about any other error.

    Args:
        error: A ``RayError``, or one of Ray Serve's own.
        who: Names the other side: ``the engine replica``.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ZfleetError):
        return cause
    text = str(cause).strip().splitlines()
    return EngineError(
        f"{who} failed: {type(cause).__name__}: {text[0] if text else ''}",
        f"send the request again; the log of {who} says more",
    )


def on_one_line(error: BaseException) -> str:
    """Return all lines of an error's text in one line, or its type if it has no text.

    Ray's first line may say nothing ("The cluster was started with:"): the reason can stand in any line.
    """
    return join_lines(str(error).splitlines()) or type(error).__name__


def join_lines(lines: Iterable[str]) -> str:
    """Join lines into one; empty lines are left out."""
    joined = ""
    for line in filter(None, map(str.strip, lines)):
        if joined:
            joined += " " if joined.endswith((":", ".", ",", ";")) else "; "
        joined += line
    return joined
