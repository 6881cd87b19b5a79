"""Whose z a member holds: clients that share one must not take it from each other, and one may die and drop none."""

from __future__ import annotations

LEASE_SECONDS = 600.0
"""How long a client may be silent. One that lives after all puts its z again when it uses it."""


class Holders:
    """The clients of a member, and the z that each has put and not dropped.

    Times are seconds of any one clock.
    """

    def __init__(self) -> None:
        self._held: dict[str, set[str]] = {}
        self._heard: dict[str, float] = {}

    def hear(self, client: str, now: float) -> None:
        """A client shows that it lives."""
        if client in self._held:
            self._heard[client] = now

    def hold(self, client: str, digest: str, now: float) -> None:
        """A client puts a z."""
        self._held.setdefault(client, set()).add(digest)
        self._heard[client] = now

    def release(self, client: str, digest: str) -> bool:
        """A client drops a z. True where it was the last that held it."""
        held = self._held.get(client, set())
        if digest not in held:
            return False
        held.remove(digest)
        if not held:
            del self._held[client], self._heard[client]
        return not any(digest in others for others in self._held.values())

    def expire(self, now: float) -> set[str]:
        """Take clients that were silent for too long for dead; the z that nobody holds any more."""
        silent = [client for client, heard in self._heard.items() if now - heard > LEASE_SECONDS]
        left: set[str] = set()
        for client in silent:
            del self._heard[client]
            left |= self._held.pop(client)
        return left.difference(*self._held.values())
