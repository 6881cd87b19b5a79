"""Counting responses, whatever answers them."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zfleet_serve.telemetry.metrics import Metrics


class CountResponses:
    """Counts each response by its status and the pattern of its route; what is asked for elsewhere is one series.

    Args:
        app: Answers.
        metrics: Where responses are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI asks."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # of an error that a layer above turns into a response

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.responses.labels(route, str(status)).inc()
