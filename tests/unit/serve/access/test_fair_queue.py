"""Fair queueing: shares follow weights, nobody starves, and whoever leaves leaves no permit behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.errors import Overloaded
from zfleet_serve.access.fair_queue import FairQueue, Tenant

TOKENS = 500
"""What the first tenant to finish has used, for each unit of its weight."""


def queue(capacity: int = 4, most: int = 10_000, most_each: int = 10_000) -> FairQueue:
    return FairQueue(lambda: capacity, most, most_each)


async def shares(
    capacity: int, weights: Sequence[float], costs: Sequence[Sequence[int]], answers: Sequence[int], estimate: int
) -> Counter[str]:
    """Return the tokens that tenants have used when the first of them has used its part; all always wait."""
    fair, used, full = queue(capacity), Counter[str](), asyncio.Event()

    async def ask(tenant: Tenant, count: int, own: Iterator[int]) -> None:
        while not full.is_set():
            async with fair.turn(tenant, count, estimate) as turn:
                turn.used = 0
                for _ in range(next(own)):
                    await asyncio.sleep(0)
                    if not full.is_set():
                        used[tenant.name] += turn.unended
                        turn.used += turn.unended
            if used[tenant.name] >= TOKENS * tenant.weight:
                full.set()

    async with asyncio.TaskGroup() as tasks:
        for place, (weight, own, count) in enumerate(zip(weights, costs, answers, strict=True)):
            for _ in range(2 * capacity):
                tasks.create_task(ask(Tenant(f"tenant {place}", weight), count, cycle(own)))
    assert (fair.running, fair.waiting) == (0, 0)
    return used


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_shares_follow_weights(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 4))

    def each(of: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
        return st.lists(of, min_size=count, max_size=count)

    weights = [float(weight) for weight in data.draw(each(st.integers(1, 4)))]
    costs = [data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=5)) for _ in range(count)]
    answers = data.draw(each(st.integers(1, 4)))
    estimate = data.draw(st.integers(1, 16))
    used = asyncio.run(shares(data.draw(st.integers(1, 4)), weights, costs, answers, estimate))
    for place, weight in enumerate(weights):
        assert used[f"tenant {place}"] == pytest.approx(TOKENS * weight, rel=0.1)


async def test_a_flood_does_not_hold_up_a_short_request() -> None:
    fair, order = queue(4), []

    async def ask(name: str, answers: int) -> None:
        async with fair.turn(Tenant(name), answers, 100.0 * answers):
            order.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(100):
            tasks.create_task(ask("flood", 4))
        await asyncio.sleep(0)
        tasks.create_task(ask("short", 1))
    assert order.index("short") <= 3


async def test_a_request_for_many_answers_is_not_overtaken_for_ever() -> None:
    fair, done = queue(4), []

    async def ask(name: str, answers: int) -> None:
        async with fair.turn(Tenant(name), answers, 1.0):
            await asyncio.sleep(0)
            done.append(name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask("small", 1))
        await asyncio.sleep(0)
        tasks.create_task(ask("large", 100))
        for place in range(50):
            tasks.create_task(ask(f"small {place}", 1))
    assert done.index("large") <= 4


async def test_a_class_goes_before_the_next() -> None:
    fair, order = queue(1), []

    async def ask(rank: int) -> None:
        async with fair.turn(Tenant(f"of rank {rank}", rank=rank), 1, 1.0):
            order.append(rank)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for rank in (2, 2, 1, 0, 1, 0):
            tasks.create_task(ask(rank))
    assert order == [2, 0, 0, 1, 1, 2]


async def test_what_was_not_used_is_not_saved_up() -> None:
    fair, order = queue(1), []

    async def ask(name: str) -> None:
        async with fair.turn(Tenant(name), 1, 10.0):
            order.append(name)
            await asyncio.sleep(0)

    for _ in range(50):
        await ask("busy")
    async with asyncio.TaskGroup() as tasks:
        for name in ("busy", "back", "busy", "back", "busy", "back"):
            tasks.create_task(ask(name))
    assert Counter(order[50:54]) == {"busy": 2, "back": 2}


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["ask", "cancel", "step", "end one"]), st.integers(0, 9)), max_size=60))
def test_cancelled_requests_leave_no_permit_behind(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        fair, tasks, turns = queue(3), [], []
        end = asyncio.Event()

        async def ask(number: int) -> None:
            async with fair.turn(Tenant(f"tenant {number % 3}"), 1 + number % 4, 5.0) as turn:
                turns.append(turn)
                await end.wait()

        for step, number in steps:
            if step == "ask":
                tasks.append(asyncio.create_task(ask(number)))
            elif step == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            elif step == "end one" and turns:
                turns[number % len(turns)].end_one()
            else:
                await asyncio.sleep(0)
            assert 0 <= fair.running <= 3
        end.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert (fair.running, fair.waiting) == (0, 0)
        async with asyncio.timeout(10), fair.turn(Tenant("new"), 3, 1.0):
            assert fair.running == 3

    asyncio.run(run())


async def test_waiting_requests_are_bounded_by_tenant_and_in_all() -> None:
    fair, end = queue(1, most=3, most_each=2), asyncio.Event()

    async def ask(name: str) -> None:
        async with fair.turn(Tenant(name), 1, 1.0):
            await end.wait()

    async with asyncio.TaskGroup() as tasks:
        for name in ("a", "a", "a", "b"):
            tasks.create_task(ask(name))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as own:
            await ask("a")
        with pytest.raises(Overloaded) as of_all:
            await ask("c")
        assert (own.value.own, of_all.value.own) == (True, False)
        # Later parts of a request that runs wait whatever the bounds are.
        tasks.create_task(_part(fair))
        await asyncio.sleep(0)
        assert fair.waiting == 4
        end.set()


async def _part(fair: FairQueue) -> None:
    async with fair.turn(Tenant("a"), 1, 1.0, bounded=False):
        pass


async def test_tenants_that_want_nothing_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zfleet_serve.access.fair_queue._REMEMBERED", 10)
    fair = queue()
    for place in range(200):
        async with fair.turn(Tenant(f"10.0.0.{place}"), 1, 1.0):
            pass
    assert len(fair._accounts) < 20
