"""What went wrong on the other side of a Ray call."""

from __future__ import annotations

from ray.exceptions import RayTaskError

from zfleet.errors import EngineError, ZfleetError


def original(error: Exception, who: str) -> ZfleetError:
    """What the other side raised on purpose, as it was raised; anything else says that it is not well.

    Args:
        error: A ``RayError``, or one of Ray Serve's own.
        who: Answers the calls, for example ``the engine replica``.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ZfleetError):
        return cause
    text = str(cause).strip().splitlines()
    return EngineError(
        f"{who} failed: {type(cause).__name__}: {text[0] if text else ''}",
        f"send the request again; the log of {who} says more",
    )
