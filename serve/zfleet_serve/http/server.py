"""Listening for HTTP: uvicorn, in a process that may share its port with others of its kind."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from fastapi import FastAPI

from zfleet.errors import ServeError

_KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than clients and load balancers keep theirs."""
_END_SECONDS = 15
"""How long streams under way may take when the server ends."""
_BACKLOG = 2048


class HttpServer:
    """Serves one application; a client's connection is answered by one of the processes on the port.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on.
    """

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_END_SECONDS,
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
        """Do nothing while it listens.

        Raises:
            ServeError: It has ended.
        """
        if self._serving is None or self._serving.done():
            raise ServeError(f"nothing listens at port {self._port} any more", "its log says why; it is started again")

    async def stop(self) -> None:
        """Accept nobody any more, and let answers under way come to their end for a while."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait([self._serving])


def listening_socket(host: str, port: int, shared: bool = True) -> socket.socket:
    """A socket that listens on a port.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        shared: Whether other sockets of the same user may listen there too (SO_REUSEPORT).

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
    except OSError as error:
        raise ServeError(
            f"port {port} of {host} cannot be used: {error.strerror}",
            "stop what listens there, or choose another port with --set port=...",
        ) from error
    return listening
