"""The errors that end a request to vLLM."""

from __future__ import annotations

from zfleet.errors import EngineError, RequestAborted


def closed() -> EngineError:
    """The error of every call on a closed engine."""
    return EngineError("the engine is closed", "start an engine and send the request again")


def aborted(request_id: str) -> RequestAborted:
    """Somebody ended this request."""
    return RequestAborted(f"request {request_id} was aborted", "send it again")


def died(request_id: str) -> EngineError:
    """The processes died after a part of the answer had arrived."""
    return EngineError(f"the engine died in the middle of request {request_id}", "send it again: the engine restarts")


def keeps_dying(attempts: int) -> EngineError:
    """The processes died each time."""
    return EngineError(
        f"the engine died {attempts} times over this request", "vLLM's own messages say why; do not send it again"
    )
