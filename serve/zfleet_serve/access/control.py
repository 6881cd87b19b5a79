"""Access control of one gateway: its keys, rates, budgets and usage, kept up to date in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from zfleet.errors import KeysError, LimitReached, NotAllowed
from zfleet.supervise import WorkLoop
from zfleet_serve.access.amount import Amount
from zfleet_serve.access.context import RequestContext, tenant_of
from zfleet_serve.access.database import Database
from zfleet_serve.access.fair_queue import Tenant
from zfleet_serve.access.key_store import KeyStore
from zfleet_serve.access.keyring import Keyring
from zfleet_serve.access.keys import Key
from zfleet_serve.access.limits import Rates, Room
from zfleet_serve.access.usage import Place, UsageStore
from zfleet_serve.access.usage_batch import UsageBatch

_LOG = logging.getLogger(__name__)
TURN_SECONDS = 1.0
"""How often keys are looked at and usage is written: a change is live, and a killed gateway's usage lost, within it."""


@dataclass(frozen=True)
class _Keys:
    """What a service with keys holds."""

    database: Database
    keyring: Keyring
    usage: UsageStore
    batch: UsageBatch


class AccessControl:
    """Decides which requests are answered. It belongs to one event loop.

    Args:
        place: Where the keys are; None asks for no keys: each address is a tenant, without limits but those of all.
        redis: Where several gateways count rates together; None counts here.
        deadline_seconds: How long a request may take; None is without end.

    Attributes:
        rates: Counts requests and tokens.
    """

    def __init__(
        self, place: str | None = None, redis: str | None = None, deadline_seconds: float | None = None
    ) -> None:
        self.rates = Rates(redis)
        self._place = place
        self._deadline_seconds = deadline_seconds
        self._keys: _Keys | None = None
        self._writing = asyncio.Lock()
        self._away = False
        self._loop = WorkLoop("reading keys and writing usage", self._turn, lambda _: None)

    @property
    def asks_for_keys(self) -> bool:
        """Return whether requests need a key."""
        return self._place is not None

    async def open(self) -> None:
        """Read the keys, and keep them up to date.

        Raises:
            KeysError: The database or Redis does not answer.
        """
        if self._place is None:
            return
        await self.rates.check()
        self._keys = await asyncio.to_thread(_open, self._place)
        self._loop.wake()

    def check(self) -> None:
        """Check that keys are kept up to date.

        Raises:
            EngineError: They have not been for a while.
        """
        if self._keys is not None:
            self._loop.check()

    async def identify(self, sent: str | None, peer: str, stranger: bool = False) -> RequestContext:
        """Find out whose request it is.

        Args:
            sent: The key that it brings.
            peer: The client's address.
            stranger: Whether it needs no key.

        Raises:
            NotAuthenticated, LimitReached, Overloaded: As ``Keyring.verify``.
            KeysError: The keys are not open.
        """
        deadline = None
        if self._deadline_seconds is not None:
            deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        if self._place is None:
            return RequestContext(Tenant(peer), deadline=deadline)
        if self._keys is None:
            raise KeysError("the keys are not open", "wait until the service has started")
        if sent is None and stranger:
            return RequestContext(Tenant(peer), deadline=deadline, known=False)
        key = await self._keys.keyring.verify(sent, peer)
        return RequestContext(tenant_of(key), key, deadline)

    async def admit(self, context: RequestContext, path: str) -> None:
        """Count a request, or refuse it.

        Raises:
            NotAllowed: The key is not for this path.
            LimitReached: The key's rate of requests or its budget is used up.
            KeysError: Redis does not answer.
        """
        key = context.key
        if key is None or self._keys is None:
            return
        if not key.settings.allows_route(path):
            # Without the first slash: what looks like a path of this machine is removed from errors.
            routes = ", ".join(route.lstrip("/") for route in key.settings.routes)
            raise NotAllowed(f"this key may not use the route {path.lstrip('/')!r}", f"it may use: {routes}")
        await self.rates.count_request(key)
        budget = key.settings.tokens_per_month
        if budget is not None and self._keys.batch.month_tokens(key.id) >= budget:
            raise LimitReached(
                f"this key has used its {budget} tokens of this month",
                "wait for the next month, or ask for a larger budget",
                _next_month_seconds(),
                budget=True,
            )

    async def rooms(self, context: RequestContext) -> dict[str, Room]:
        """Return what is left of a request's rates, for its response; nothing if Redis does not answer."""
        if context.key is None:
            return {}
        try:
            return await self.rates.rooms(context.key)
        except KeysError as error:
            _LOG.warning("a response does not say what is left: %s", error)
            return {}

    def finish(self, context: RequestContext) -> None:
        """Count what a request used, when it has ended in any way."""
        if context.key is not None and self._keys is not None and context.used.tokens:
            self._keys.batch.add(context.key.id, context.expert, context.used + Amount(requests=1))

    async def usage(self, key: Key, since: str) -> list[tuple[Place, Amount]]:
        """Return what a key has used since a day.

        Raises:
            KeysError: The database does not answer.
        """
        if self._keys is None:
            return []
        await self._write(self._keys)
        return await asyncio.to_thread(self._keys.usage.read, since, key.id)

    async def close(self) -> None:
        """Write what is not yet written, and close the database.

        Raises:
            KeysError: The database does not answer.
        """
        await self._loop.stop()
        if self._keys is not None:
            keys, self._keys = self._keys, None
            try:
                await self._write(keys)
            finally:
                keys.keyring.close()
                keys.database.close()

    async def _turn(self) -> bool:
        began = time.monotonic()
        if self._keys is not None:
            try:
                await asyncio.to_thread(self._keys.keyring.refresh)
                self._keys.keyring.forget_ended()
                await self._write(self._keys)
            except KeysError as error:
                # The gateway goes on with the keys that it knows: a new one could read none at all.
                if not self._away:
                    _LOG.warning("%s; known keys stay valid, and usage waits", error)
                self._away = True
            else:
                if self._away:
                    _LOG.warning("the keys can be read again")
                self._away = False
        self._loop.count_success()
        await asyncio.sleep(max(0.0, TURN_SECONDS - (time.monotonic() - began)))
        return True

    async def _write(self, keys: _Keys) -> None:
        async with self._writing:
            keys.batch.take()
            await asyncio.to_thread(keys.batch.write)


def _open(place: str) -> _Keys:
    database = Database(place)
    store, usage = KeyStore(database), UsageStore(database)
    keyring, batch = Keyring(store), UsageBatch(usage)
    keyring.refresh()
    batch.write()
    return _Keys(database, keyring, usage, batch)


def _next_month_seconds() -> float:
    now = datetime.now(UTC)
    following = now.replace(year=now.year + now.month // 12, month=now.month % 12 + 1, day=1)
    return (following.replace(hour=0, minute=0, second=0, microsecond=0) - now).total_seconds()
