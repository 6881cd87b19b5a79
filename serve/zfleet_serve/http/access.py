"""The door for HTTP: which requests get in, and what their responses say about limits."""

from __future__ import annotations

from datetime import date
from typing import Any
from urllib.parse import parse_qsl, unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zfleet.errors import InvalidRequest, NotAuthenticated, ZfleetError
from zfleet_serve.access.context import RequestContext, current
from zfleet_serve.access.control import AccessControl
from zfleet_serve.access.key_text import IN_TEXT
from zfleet_serve.access.usage import month_start
from zfleet_serve.http.errors import error_response

OPEN_PATHS = ("/healthz",)
"""Paths that need no key: load balancers have none."""
_KEY_PARAMETERS = ("api_key", "api-key", "apikey", "key", "access_token", "token")
_LONGEST_WARNING = 500


class AccessMiddleware:
    """Lets requests in, as ``AccessControl`` decides, and counts what they used when they have ended.

    Args:
        app: The application.
        access: Decides.
    """

    def __init__(self, app: ASGIApp, access: AccessControl) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _refuse_key_in_url(scope)
            sent = _bearer(Headers(scope=scope)) if self._access.asks_for_keys else None
            peer = scope["client"][0] if scope.get("client") else "unknown"
            context = await self._access.identify(sent, peer, stranger=scope["path"] in OPEN_PATHS)
        except ZfleetError as error:
            await error_response(error)(scope, receive, send)
            return
        send = self._telling(context, send)
        token = current.set(context)
        try:
            await self._access.admit(context, scope["path"])
            await self._app(scope, receive, send)
        except ZfleetError as error:
            await error_response(error)(scope, receive, send)
        finally:
            current.reset(token)
            self._access.finish(context)

    def _telling(self, context: RequestContext, send: Send) -> Send:
        """Add headers about limits and ignored fields to the response."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for what, room in (await self._access.rooms(context)).items():
                    headers[f"x-ratelimit-limit-{what}"] = str(room.limit)
                    headers[f"x-ratelimit-remaining-{what}"] = str(room.left)
                    headers[f"x-ratelimit-reset-{what}"] = f"{room.reset_seconds:.3f}s"
                if context.ignored:
                    headers["x-zfleet-warning"] = _warning(context.ignored)
            await send(message)

        return sending


async def usage_of(access: AccessControl, since: str | None) -> dict[str, Any]:
    """Return what the key of the running request has used, by day and expert.

    Args:
        access: Knows it.
        since: The first day, as 2026-01-31; None is the first of this month.

    Raises:
        InvalidRequest: There are no keys here, or ``since`` is no day.
    """
    key = current.get().key
    if key is None:
        raise InvalidRequest("this service asks for no keys, and counts no usage", "see `keys` of the serve spec")
    try:
        first = month_start() if since is None else date.fromisoformat(since).isoformat()
    except ValueError:
        raise InvalidRequest(f"since is {since[:40]!r}" if since else "since is empty", "2026-01-31") from None
    rows = await access.usage(key, first)
    return {
        "object": "list",
        "key": key.id,
        "since": first,
        "tokens_per_month": key.settings.tokens_per_month,
        "data": [{"day": place.day, "expert": place.expert, **vars(amount)} for place, amount in rows],
    }


def _refuse_key_in_url(scope: Scope) -> None:
    """Refuse a key in a URL: proxies and browsers write URLs to logs.

    Raises:
        InvalidRequest: There is one; does not repeat it.
    """
    query = scope["query_string"].decode("latin-1")
    parameters = {name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    if parameters & set(_KEY_PARAMETERS) or IN_TEXT.search(scope["path"]) or IN_TEXT.search(unquote(query)):
        raise InvalidRequest(
            "the URL has an API key, and URLs are written to logs",
            "send the key in the header `Authorization: Bearer`, and replace this one: `zfleet keys rotate`",
        )


def _bearer(headers: Headers) -> str | None:
    """Return the key of a request; None if it has none.

    Raises:
        NotAuthenticated: There are several headers, or one of another form.
    """
    sent = headers.getlist("authorization")
    if not sent:
        return None
    scheme, _, key = sent[0].partition(" ")
    if len(sent) > 1 or scheme.lower() != "bearer":
        raise NotAuthenticated("no valid API key was given", "send one header `Authorization: Bearer` with the key")
    return key.strip()


def _warning(ignored: tuple[str, ...]) -> str:
    """Name ignored fields in a header; their names are the client's, and may hold anything."""
    names = ", ".join(ascii(name)[1:-1] for name in ignored)
    return f"ignored: {names[:_LONGEST_WARNING]}"
