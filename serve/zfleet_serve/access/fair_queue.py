"""Weighted fair queueing in front of an engine: a flood by one tenant leaves the others their share.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996, doi:10.1145/248156.248171), where the tag of a tenant's
next answers is corrected when it is known what the last ones cost. Permits count answers, not requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from zfleet.errors import Overloaded

_REMEMBERED = 1000
"""So many tenants are remembered before those that want nothing are forgotten."""
_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Tenant:
    """Who shares the engine with others.

    Attributes:
        name: Names the tenant.
        weight: Its share among waiting tenants of the same class, above 0.
        rank: Its class, 0 before 1: a tenant waits as long as one of a lower rank waits.
    """

    name: str
    weight: float = 1.0
    rank: int = 1


@dataclass(eq=False)
class _Waiting:
    answers: int
    cost: float
    counted: bool
    granted: asyncio.Future[None]


@dataclass(eq=False)
class _Account:
    """A tenant's place in the order.

    Attributes:
        tag: The start tag of its next answers: what it has used so far over its weight, as virtual time.
        waiting: Its requests, first come first served.
        running: Permits that it holds.
        counted: Waiting requests that count for the bounds.
    """

    tenant: Tenant
    tag: float = 0.0
    waiting: deque[_Waiting] = field(default_factory=deque)
    running: int = 0
    counted: int = 0


@dataclass(eq=False)
class Turn:
    """Answers that may run.

    Attributes:
        unended: Permits that are still held.
        used: What the answers cost; set it before the turn ends. At first what was estimated.
    """

    unended: int
    used: float
    _end: Callable[[int], None]

    def end_one(self) -> None:
        """Give the permit of one answer back."""
        if self.unended:
            self.unended -= 1
            self._end(1)


class FairQueue:
    """Admits answers to an engine in a fair order. It belongs to one event loop.

    Among waiting tenants of the lowest rank the one with the smallest tag is next; its tag then grows by the cost over
    its weight. A tenant that comes back starts at the virtual time, the tag of whoever was admitted last: what was not
    used is not saved up. The next one waits until all its permits are free, so that many answers do not starve.

    Args:
        capacity: Returns how many answers may run at once; it may change.
        most: The most requests that wait.
        most_each: The most requests of one tenant that wait.
    """

    def __init__(self, capacity: Callable[[], int], most: int, most_each: int) -> None:
        self._capacity = capacity
        self._most = most
        self._most_each = most_each
        self._accounts: dict[str, _Account] = {}
        self._virtual: dict[int, float] = {}
        self._running = 0
        self._counted = 0

    @property
    def running(self) -> int:
        """Return how many answers run."""
        return self._running

    @property
    def waiting(self) -> int:
        """Return how many turns are waited for."""
        return sum(len(account.waiting) for account in self._accounts.values())

    @asynccontextmanager
    async def turn(self, tenant: Tenant, answers: int, cost: float, bounded: bool = True) -> AsyncIterator[Turn]:
        """Wait for a turn, and hold its permits inside the block.

        Args:
            tenant: Who asks.
            answers: The permits: how many answers shall run.
            cost: What they will cost, estimated, in tokens.
            bounded: Whether this counts for the bounds; False for later parts of a request that runs already.

        Raises:
            Overloaded: Too many requests wait.
        """
        account = self._account(tenant)
        if bounded:
            self._check_room(account)
        waiting = _Waiting(answers, cost, bounded, asyncio.get_running_loop().create_future())
        self._enter(account, waiting)
        self._admit()
        try:
            await waiting.granted
        except asyncio.CancelledError:
            if waiting in account.waiting:
                self._leave(account, waiting)
            elif not waiting.granted.cancelled():
                account.tag -= cost / tenant.weight
                self._release(account, waiting.answers)
            # Others may go ahead of whom this one held up.
            self._admit()
            raise
        turn = Turn(waiting.answers, cost, lambda count: self._release(account, count))
        try:
            yield turn
        finally:
            account.tag += (turn.used - cost) / tenant.weight
            unended, turn.unended = turn.unended, 0
            self._release(account, unended)

    def _check_room(self, account: _Account) -> None:
        if account.counted >= self._most_each:
            message = f"{account.counted} requests of this client wait already, the most that may"
            raise Overloaded(message, "send fewer at once", _RETRY_SECONDS, own=True)
        if self._counted >= self._most:
            message = f"the service is overloaded: {self._counted} requests wait already"
            raise Overloaded(message, "send it again later", _RETRY_SECONDS)

    def _account(self, tenant: Tenant) -> _Account:
        account = self._accounts.get(tenant.name)
        if account is None:
            if len(self._accounts) >= _REMEMBERED:
                self._forget_idle()
            account = self._accounts[tenant.name] = _Account(tenant)
        account.tenant = tenant  # its key may have been changed
        return account

    def _forget_idle(self) -> None:
        """Forget tenants that want nothing and have no more than their share behind them."""
        self._accounts = {
            name: account
            for name, account in self._accounts.items()
            if account.waiting or account.running or account.tag > self._virtual.get(account.tenant.rank, 0.0)
        }

    def _enter(self, account: _Account, waiting: _Waiting) -> None:
        if not account.waiting:
            account.tag = max(account.tag, self._virtual.get(account.tenant.rank, 0.0))
        account.waiting.append(waiting)
        account.counted += waiting.counted
        self._counted += waiting.counted

    def _leave(self, account: _Account, waiting: _Waiting) -> None:
        account.waiting.remove(waiting)
        account.counted -= waiting.counted
        self._counted -= waiting.counted

    def _admit(self) -> None:
        """Grant turns as long as the next one fits."""
        while True:
            able = [account for account in self._accounts.values() if account.waiting]
            if not able:
                return
            account = min(able, key=lambda account: (account.tenant.rank, account.tag))
            waiting, capacity = account.waiting[0], max(1, self._capacity())
            waiting.answers = min(waiting.answers, capacity)
            if self._running + waiting.answers > capacity and not waiting.granted.cancelled():
                return
            self._leave(account, waiting)
            if waiting.granted.cancelled():
                continue  # its task has not run since
            rank = account.tenant.rank
            self._virtual[rank] = max(self._virtual.get(rank, 0.0), account.tag)
            account.tag += waiting.cost / account.tenant.weight
            account.running += waiting.answers
            self._running += waiting.answers
            waiting.granted.set_result(None)

    def _release(self, account: _Account, count: int) -> None:
        account.running -= count
        self._running -= count
        self._admit()
        if not self._running:  # nobody waits either: there is no order to keep
            self._accounts.clear()
            self._virtual.clear()
