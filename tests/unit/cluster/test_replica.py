"""A member of the pool in this process: its clients' z, and work that is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from zfleet.config.specs import EngineSpec
from zfleet.engine.contract import ScoreRequest
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import InvalidZ
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_harness import sampled
from zfleet_cluster.fleet import replica as member_module
from zfleet_cluster.fleet.leases import LEASE_SECONDS
from zfleet_cluster.fleet.replica import Member, Result, Work

PROMPT = (1, 11, 25, 27)
LONG = sampled(PROMPT, 1, max_tokens=200)
SHORT = sampled(PROMPT, 1, max_tokens=2)
SCORE = ScoreRequest(PROMPT, PROMPT)


@pytest.fixture
async def member(tiny_model: SvfModel) -> AsyncIterator[Member]:
    member = Member(EngineSpec(slots=4), 1)
    member.opened = TorchEngine(tiny_model, EngineSpec(slots=4))
    yield member
    await member.close()


async def _all(member: Member, batch: list[tuple[str, Work]]) -> list[tuple[int, Result]]:
    return [result async for message in member.work("client", batch) for result in message]


async def test_the_last_client_drops_a_z(member: Member, make_z: Callable[..., ZVector]) -> None:
    z = make_z(1)
    for client in ("one", "other"):
        await member.hold_z(client, z.to_bytes())
    for client, left in (("one", 1), ("one", 1), ("stranger", 1), ("other", 0)):
        await member.release_z(client, z.digest)
        assert (await member.stats()).known_z == left


async def test_a_z_that_is_refused_is_held_by_nobody(member: Member, make_z: Callable[..., ZVector]) -> None:
    z = make_z(1)
    for name in z.values:
        wrong = ZVector({**z.values, name: z.values[name][:-1]}, z.base, z.factors, z.targets)
    with pytest.raises(InvalidZ):
        await member.hold_z("one", wrong.to_bytes())
    await member.release_z("one", wrong.digest)


async def test_the_z_of_a_client_that_died_is_dropped(
    member: Member, make_z: Callable[..., ZVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(member_module, "monotonic", lambda: now)
    await member.hold_z("dead", make_z(1).to_bytes())
    await member.hold_z("client", make_z(2).to_bytes())
    now = LEASE_SECONDS
    await _all(member, [("client/1", SHORT)])
    now += 1
    await member.hold_z("client", make_z(3).to_bytes())
    assert (await member.stats()).known_z == 2
    await member.release_z("client", make_z(2).digest)
    assert (await member.stats()).known_z == 1


@pytest.mark.parametrize("turns", range(8))
async def test_work_is_stopped_wherever_it_is(member: Member, turns: int) -> None:
    batch: list[tuple[str, Work]] = [("1", LONG), ("2", SCORE), ("3", SHORT), ("4", LONG)]
    working = asyncio.create_task(_all(member, batch))
    for _ in range(turns):
        await asyncio.sleep(0)
    for name in ("1", "2", "4"):
        await member.stop(name)
    assert {place for place, _ in await working} <= {1, 2}
    assert (await _all(member, [("5", SHORT)]))[0][0] == 0
    stats = await member.stats()
    assert (stats.running, stats.waiting) == (0, 0)


async def test_names_of_work_that_has_ended_are_not_kept_for_ever(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_module, "_EARLY", 2)
    for name in ("1", "2", "3"):
        await member.stop(name)
    results = await _all(member, [("1", SHORT), ("2", SHORT), ("3", SHORT)])
    assert [place for place, _ in results] == [0]
