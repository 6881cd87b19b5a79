"""Routes of OpenAI's API that this service has not, and why: clients get a reason with their 404."""

from __future__ import annotations

_TEXT_ALONE = "this service answers with text alone"
_NO_STORE = "this service stores nothing for its clients"
_REASONS = {
    "/v1/embeddings": "this service generates text; it has no model of embeddings",
    "/v1/moderations": "this service generates text; it has no model of moderation",
    "/v1/images": _TEXT_ALONE,
    "/v1/audio": _TEXT_ALONE,
    "/v1/realtime": "this service answers over HTTP: use /v1/chat/completions with stream: true",
    "/v1/responses": f"{_NO_STORE}: send the whole conversation to /v1/chat/completions",
    "/v1/conversations": f"{_NO_STORE}: send the whole conversation to /v1/chat/completions",
    "/v1/assistants": f"{_NO_STORE}: send the whole conversation to /v1/chat/completions",
    "/v1/threads": f"{_NO_STORE}: send the whole conversation to /v1/chat/completions",
    "/v1/files": _NO_STORE,
    "/v1/uploads": _NO_STORE,
    "/v1/vector_stores": _NO_STORE,
    "/v1/batches": f"{_NO_STORE}: send the requests one by one, it batches those that run at the same time",
    "/v1/fine_tuning": "experts are trained with `zfleet train` and served when they are registered",
}


def why_unsupported(path: str) -> str | None:
    """Return why the service has not this route of OpenAI's; None for other paths."""
    for route, reason in _REASONS.items():
        if path == route or path.startswith(f"{route}/"):
            return reason
    return None
