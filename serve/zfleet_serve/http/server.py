"""Listening for HTTP: uvicorn, in a process that may share its port with other gateways."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

import uvicorn
from fastapi import FastAPI

from zfleet.config.access import TlsSpec
from zfleet.errors import ServeError
from zfleet_serve.http.protocol import BoundedHttp

_KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than clients and load balancers keep theirs."""
_END_SECONDS = 15
"""How long answers under way may take when the server ends."""
_CLOSE_SECONDS = 2
"""How long their connections may take after that."""
_BACKLOG = 2048


class HttpServer:
    """Serves one application. The kernel gives each connection to one of the processes on the port.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on.
        tls: Certificate and key for HTTPS; None speaks HTTP.

    Raises:
        ServeError: Certificate or key cannot be used.
    """

    def __init__(self, app: FastAPI, host: str, port: int, tls: TlsSpec | None = None) -> None:
        self._host = host
        self._port = port
        if tls is not None:
            check_tls(tls)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=BoundedHttp,
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_END_SECONDS + _CLOSE_SECONDS,
                ssl_certfile=None if tls is None else tls.cert,
                ssl_keyfile=None if tls is None else tls.key,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; returns when clients can connect.

        Raises:
            ServeError: The port is in use.
        """
        self._serving = asyncio.create_task(self._server.serve([listening_socket(self._host, self._port)]))
        while not self._server.started:
            self.check()
            await asyncio.sleep(0.01)

    def check(self) -> None:
        """Return if it listens.

        Raises:
            ServeError: It has ended; says why.
        """
        if self._serving is None:
            raise ServeError(f"nothing listens at port {self._port} yet", "call start first")
        if self._serving.done():
            error = None if self._serving.cancelled() else self._serving.exception()
            reason = "" if error is None else f": {type(error).__name__}: {error}"
            raise ServeError(
                f"nothing listens at port {self._port} any more{reason}", "the gateway's log says more; start it again"
            )

    async def stop(self, end_requests: Callable[[], Awaitable[None]]) -> None:
        """Stop listening, give answers under way some time, then end the remaining ones.

        Args:
            end_requests: Fails all requests under way, so that streams end in an error event.
        """
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait([self._serving], timeout=_END_SECONDS)
        await end_requests()
        if self._serving is not None:
            await asyncio.wait([self._serving])


def check_tls(tls: TlsSpec) -> None:
    """Check that certificate and key can be used.

    Raises:
        ServeError: They cannot; says why.
    """
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tls.cert, tls.key)
    except OSError as error:  # ssl.SSLError, too
        raise ServeError(
            f"tls.cert {tls.cert!r} and tls.key {tls.key!r} cannot be used: {error.strerror or error}",
            "give files in PEM format: the certificate, with those between it and its authority, and its private key "
            "without a password",
        ) from error


def listening_socket(host: str, port: int, shared: bool = True) -> socket.socket:
    """Open a socket that listens on a port.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        shared: Whether other sockets of the same user may listen there, too (SO_REUSEPORT).

    Raises:
        ServeError: Names the port and what to do.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            # A port whose last connections are still closing is free.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(where)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:  # the latter for a name that cannot be one
        raise ServeError(
            f"port {port} of {host!r} cannot be used: {getattr(error, 'strerror', None) or error}",
            "stop what listens there, or choose another port with --set port=...",
        ) from error
    return listening
