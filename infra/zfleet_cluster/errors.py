"""Errors of Ray, and errors that arrive through a Ray call, as messages of zfleet."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ray.exceptions import OutOfMemoryError, RayTaskError

from zfleet.errors import EngineError, ZfleetError

_LOW_ON_MEMORY = "low on memory"
"""In the text of every error about a process that Ray's memory monitor ended."""

_USED = re.compile(r"memory used=([0-9.]+ ?[KMGT]?i?B)")


def original(error: Exception, who: str) -> ZfleetError:
    """Return the ``ZfleetError`` that the other side of a Ray call raised, or an ``EngineError`` about any other error.

    Args:
        error: A ``RayError``, or one of Ray Serve's own.
        who: Names the other side: ``the engine replica``.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ZfleetError):
        return cause
    if (death := memory_death(cause)) is not None:
        return EngineError(
            f"{who} {death}",
            "lower engine.slots, engine.max_length or engine.vllm.cache_gib, or give it resources.memory of its own",
        )
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


def memory_death(error: BaseException, kernel_kills: int = 0) -> str | None:
    """Say that a process died because memory ran out; None if it died of anything else, as far as can be told.

    Args:
        error: Ray's error about the process.
        kernel_kills: How many processes the kernel has ended for lack of memory meanwhile, on this machine.
    """
    text = str(error)
    if isinstance(error, OutOfMemoryError) or _LOW_ON_MEMORY in text:
        used = _USED.search(text)
        held = f", holding {used.group(1)}," if used else ""
        return f"was ended{held} because its machine ran out of memory"
    if kernel_kills:
        return "died when the kernel ended a process because memory ran out"
    return None
