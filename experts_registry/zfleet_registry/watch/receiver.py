"""Receive webhooks over HTTP, and wake a watch."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from zfleet.errors import RegistryError
from zfleet_registry.watch.address import Webhooks
from zfleet_registry.watch.signature import RefusedWebhook, Verifier

logger = logging.getLogger(__name__)

LARGEST_BODY = 8 * 2**20
"""Bytes. MLflow sends all tags of a new version, and so the evidence of a promotion."""

_BODY_SECONDS = 10.0
_CONNECTIONS = 64
_END_SECONDS = 5
_LOGGED_A_MINUTE = 10
"""Refused webhooks; more are not logged."""


class Receiver:
    """Listens in a thread of its own until ``close``.

    Args:
        webhooks: Where.
        secret: What the tracking server signs with.
        received: Called for each accepted webhook, in the thread.
        clock: Seconds since 1970.

    Raises:
        RegistryError: The port cannot be listened on.
    """

    def __init__(
        self, webhooks: Webhooks, secret: str, received: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._verifier = Verifier(secret, clock)
        self._received = received
        self._logged: deque[float] = deque(maxlen=_LOGGED_A_MINUTE)
        try:
            listening = socket.create_server((webhooks.host, webhooks.port))
        except (OSError, OverflowError) as error:
            raise RegistryError(
                f"webhooks cannot be received at {webhooks.host}:{webhooks.port}: {error}",
                "give another port, or an address of this machine",
            ) from error
        host, port = listening.getsockname()[:2]
        self.url = webhooks.url or f"http://{host}:{port}/"
        app = Starlette(routes=[Route("/{path:path}", self._receive, methods=["POST"])])
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="error",
                access_log=False,
                lifespan="off",
                server_header=False,
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=_END_SECONDS,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="webhooks", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        self._thread.join()

    async def _receive(self, request: Request) -> Response:
        try:
            self._verifier.check(request.headers, await _body(request))
        except RefusedWebhook as refused:
            self._log(refused)
            return JSONResponse({"error": "refused"}, refused.status)
        except ClientDisconnect:
            return Response(status_code=400)
        self._received()
        return Response(status_code=204)

    def _log(self, refused: RefusedWebhook) -> None:
        """Log a refusal, but not a flood of them."""
        now = time.monotonic()
        if len(self._logged) < _LOGGED_A_MINUTE or now - self._logged[0] > 60:
            self._logged.append(now)
            logger.warning("a webhook at %s was refused: %s", self.url, refused.reason)


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > LARGEST_BODY:
                    raise RefusedWebhook(413, f"it has more than {LARGEST_BODY:,} bytes")
    except TimeoutError:
        raise RefusedWebhook(408, f"its body did not come within {_BODY_SECONDS:.0f} s") from None
    return body
