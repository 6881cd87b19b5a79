"""The id of a request: taken from its ``x-request-id`` or made, sent back with the answer, and named in the log."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_TAKEN = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""Other ids could break lines of a log, or fill it."""
_KEY = "zfleet.request_id"
_CURRENT: ContextVar[str | None] = ContextVar("zfleet_request_id", default=None)


class RequestIds:
    """Middleware that gives each request its id.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with its id in the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(HEADER, "")
        name = sent if _TAKEN.fullmatch(sent) else f"req-{uuid.uuid4().hex}"
        scope[_KEY] = name
        _CURRENT.set(name)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        await self._app(scope, receive, named)


def id_of(scope: Scope) -> str:
    """Return the id of a request that passed the middleware."""
    name: str = scope[_KEY]
    return name


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the header of a request's id, for an answer that does not pass the middleware."""
    return {HEADER: scope[_KEY]} if _KEY in scope else {}


class LogWithIds(logging.LoggerAdapter[logging.Logger]):
    """A logger whose messages name the request that is answered."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Write the id before the message."""
        name = _CURRENT.get()
        # In the arguments, an id with a percent sign would be a format; it has none.
        return (msg if name is None else f"[{name}] {msg}"), kwargs


def request_log(module: str) -> LogWithIds:
    """Return the logger of a module, for messages about requests."""
    return LogWithIds(logging.getLogger(module), {})
