"""Rates a minute: what they let pass, what is given back, and what is left."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zfleet.errors import KeysError, LimitReached
from zfleet_serve.access.keys import Key, KeySettings
from zfleet_serve.access.limits import MINUTE, Rates


class Clock:
    """The time of ``limits``, ours and the library's."""

    now = 1_800_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.now -= clock.now % MINUTE
    monkeypatch.setattr(time, "time", clock.time)
    return clock


def key(**settings: int) -> Key:
    return Key("0123456789ab", "one", KeySettings(**settings), 0.0, None, None, "", None, None)


async def test_requests_a_minute(clock: Clock) -> None:
    rates, one = Rates(), key(requests_per_minute=3)
    for _ in range(3):
        await rates.count_request(one)
    with pytest.raises(LimitReached) as refused:
        await rates.count_request(one)
    assert 1 <= refused.value.retry_seconds <= MINUTE
    assert (await rates.rooms(one))["requests"].left == 0
    clock.now += 2 * MINUTE
    await rates.count_request(one)
    assert (await rates.rooms(one))["requests"].left == 2


async def test_tokens_that_are_not_used_are_given_back(clock: Clock) -> None:
    rates, one = Rates(), key(tokens_per_minute=100)
    reserved = await rates.reserve(one, 90)
    with pytest.raises(LimitReached, match="10 are left"):
        await rates.reserve(one, 20)
    await rates.give_back(one, reserved, 5)
    assert (await rates.rooms(one))["tokens"].left == 95
    assert set(await rates.rooms(one)) == {"tokens"}


async def test_a_request_of_more_than_the_limit_needs_all_of_it(clock: Clock) -> None:
    rates, one = Rates(), key(tokens_per_minute=100)
    reserved = await rates.reserve(one, 10_000)
    with pytest.raises(LimitReached):
        await rates.reserve(one, 1)
    await rates.give_back(one, reserved, 20)
    await rates.reserve(one, 80)


async def test_a_key_without_limits_is_not_counted() -> None:
    rates, one = Rates(), key()
    await rates.count_request(one)
    await rates.give_back(one, await rates.reserve(one, 10**9), 1)
    assert await rates.rooms(one) == {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1), st.floats(0, 40)), min_size=1, max_size=40),
)
def test_no_minute_of_the_clock_has_more_than_the_limit(
    clock: Clock, limit: int, steps: list[tuple[int, float, float]]
) -> None:
    async def run() -> None:
        rates, one, used = Rates(), key(tokens_per_minute=limit), dict[float, int]()
        for tokens, share, seconds in steps:
            minute = clock.now // MINUTE
            try:
                reserved = await rates.reserve(one, tokens)
            except LimitReached:
                pass
            else:
                spent = round(reserved.tokens * share)
                used[minute] = used.get(minute, 0) + spent
                await rates.give_back(one, reserved, spent)
            room = (await rates.rooms(one))["tokens"]
            assert 0 <= room.left <= limit
            assert 0 <= room.reset_seconds <= MINUTE
            clock.now += seconds
        assert all(spent <= limit for spent in used.values())

    asyncio.run(run())


async def test_a_redis_that_does_not_answer_is_named() -> None:
    rates = Rates("redis://:secret@127.0.0.1:1")
    with pytest.raises(KeysError, match="Redis") as refused:
        await rates.check()
    assert "secret" not in str(refused.value)
    with pytest.raises(KeysError):
        await rates.count_request(key(requests_per_minute=1))
