"""Rates of requests and tokens a minute, in sliding windows; several gateways count them together in Redis."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError

from zfleet.errors import KeysError, LimitReached
from zfleet_serve.access.keys import Key

_LOG = logging.getLogger(__name__)
MINUTE = 60.0
_NAMESPACE = "zfleet"
_REDIS_SECONDS = 2.0
"""How long a request waits for Redis."""


@dataclass(frozen=True)
class Room:
    """What is left of a rate.

    Attributes:
        limit: The rate, a minute.
        left: What is left now.
        reset_seconds: When more is left.
    """

    limit: int
    left: int
    reset_seconds: float


@dataclass(frozen=True)
class Reserved:
    """Tokens that a request may use.

    Attributes:
        tokens: How many.
        at: When they were reserved, in seconds since 1970.
    """

    tokens: int
    at: float


NOTHING = Reserved(0, 0.0)


class Rates:
    """Counts requests and tokens of keys.

    Tokens are reserved before an answer begins, as many as it may have; those that it did not use are given back in
    the same minute. Later they have begun to leave the window by themselves.

    Args:
        redis: ``redis://host:port``, for several gateways; None counts in this process.

    Raises:
        KeysError: The client of Redis is not installed.
    """

    def __init__(self, redis: str | None = None) -> None:
        self._storage = _storage(redis)
        self._windows = SlidingWindowCounterRateLimiter(self._storage)

    async def check(self) -> None:
        """Check that rates can be counted.

        Raises:
            KeysError: Redis does not answer.
        """
        try:
            answers = await self._storage.check()
        except StorageError:
            answers = False
        if not answers:
            raise KeysError("Redis, which counts the rates of keys, does not answer", "start it, or check `redis`")

    async def count_request(self, key: Key) -> None:
        """Count a request of a key.

        Raises:
            LimitReached: There were as many in the last minute as the key may send.
            KeysError: Redis does not answer.
        """
        limit = key.settings.requests_per_minute
        if limit is not None and not await self._hit(limit, "requests", key, 1):
            room = await self._room(limit, "requests", key)
            raise LimitReached(
                f"this key may send {limit} requests a minute", "send it again later", max(1.0, room.reset_seconds)
            )

    async def reserve(self, key: Key, tokens: int) -> Reserved:
        """Reserve tokens for a request of a key; one that may use more than its limit needs all of that.

        Raises:
            LimitReached: The last minute leaves fewer than these.
            KeysError: Redis does not answer.
        """
        limit = key.settings.tokens_per_minute
        if limit is None:
            return NOTHING
        tokens = min(tokens, limit)
        if not await self._hit(limit, "tokens", key, tokens):
            room = await self._room(limit, "tokens", key)
            raise LimitReached(
                f"this key may use {limit} tokens a minute; {room.left} are left, and this request may use {tokens}",
                "send it again later, or lower max_tokens",
                max(1.0, room.reset_seconds),
            )
        return Reserved(tokens, time.time())

    async def give_back(self, key: Key, reserved: Reserved, used: int) -> None:
        """Give back what a request reserved and did not use. Without Redis it ages out of the window by itself."""
        limit = key.settings.tokens_per_minute
        same_minute = time.time() // MINUTE == reserved.at // MINUTE
        if limit is not None and used < reserved.tokens and same_minute:
            try:
                await self._hit(limit, "tokens", key, used - reserved.tokens)
            except KeysError as error:
                _LOG.warning("tokens that key %s did not use are not given back: %s", key.id, error)

    async def rooms(self, key: Key) -> dict[str, Room]:
        """Return what is left of the rates that a key has: of ``requests``, and of ``tokens``.

        Raises:
            KeysError: Redis does not answer.
        """
        limits = {"requests": key.settings.requests_per_minute, "tokens": key.settings.tokens_per_minute}
        return {what: await self._room(limit, what, key) for what, limit in limits.items() if limit is not None}

    async def _hit(self, limit: int, what: str, key: Key, cost: int) -> bool:
        try:
            return await self._windows.hit(RateLimitItemPerMinute(limit, namespace=_NAMESPACE), what, key.id, cost=cost)
        except StorageError as error:
            raise _away(error) from None

    async def _room(self, limit: int, what: str, key: Key) -> Room:
        try:
            reset, left = await self._windows.get_window_stats(
                RateLimitItemPerMinute(limit, namespace=_NAMESPACE), what, key.id
            )
        except StorageError as error:
            raise _away(error) from None
        return Room(limit, min(left, limit), min(MINUTE, max(0.0, reset - time.time())))


def _storage(redis: str | None) -> Storage:
    if redis is None:
        return MemoryStorage()
    try:
        return RedisStorage(
            f"async+{redis}",
            wrap_exceptions=True,
            implementation="redispy",
            socket_timeout=_REDIS_SECONDS,
            socket_connect_timeout=_REDIS_SECONDS,
        )
    except ConfigurationError:
        raise KeysError("`redis` is set, and its client is not installed", "pip install 'zfleet[redis]'") from None


def _away(error: StorageError) -> KeysError:
    return KeysError(f"Redis, which counts the rates of keys, does not answer: {type(error).__name__}", "start it")
