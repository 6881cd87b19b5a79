"""Where a watch receives webhooks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Webhooks:
    """Where a watch receives webhooks.

    Attributes:
        host: The address to listen on; by default only programs on this machine reach it.
        port: The port; 0: a free one.
        url: How the tracking server reaches it, for example through a proxy with TLS; None: by host and port.
    """

    host: str = "127.0.0.1"
    port: int = 0
    url: str | None = None
