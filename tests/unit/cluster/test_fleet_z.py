"""What a client's replicas know of its z-vectors when replicas refuse, forget and die, and when clients share a z."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from zfleet.engine.contract import ScoreRequest
from zfleet.errors import EngineError, InvalidZ, RequestAborted, UnknownZ, WrongBase
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_harness import greedy, run, run_all, sampled
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z
from zfleet_cluster.testing import closing, linked, local_fleet

PROMPTS = tuple(fake_tokens(text) for text in ("abc", "hello", "a", "one two three", "xy", "zz top"))
Z = fake_z(1)


class Choosy(FakeEngine):
    """An engine that takes a z when it is let, or refuses it.

    Attributes:
        take: ``put_z`` waits for it.
        refusal: Raised by ``put_z``.
        history: Digests that were put (+) and dropped (-).
    """

    def __init__(self) -> None:
        super().__init__()
        self.take = asyncio.Event()
        self.take.set()
        self.refusal: Exception | None = None
        self.history: list[str] = []

    async def put_z(self, z: ZVector) -> str:
        self.history.append(f"+{z.digest}")
        await self.take.wait()
        if self.refusal is not None:
            raise self.refusal
        return await super().put_z(z)

    async def drop_z(self, digest: str) -> None:
        self.history.append(f"-{digest}")
        await super().drop_z(digest)


async def test_a_z_that_one_replica_refuses_is_asked_of_the_others() -> None:
    refusing, taking = Choosy(), Choosy()
    refusing.refusal = EngineError("no room for a z")
    taking.take.clear()
    async with local_fleet([refusing, taking]) as (_, client):
        putting = asyncio.create_task(client.put_z(Z))
        while not refusing.history:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert not putting.done(), "the other replica may still take it"
        taking.take.set()
        assert await putting == Z.digest
        answers = await run_all(client, [sampled(prompt, 1, Z.digest) for prompt in PROMPTS * 4])
        assert len(answers) == 24
        assert (await refusing.stats()).generated_tokens == 0
        # Requests of the base still go to both.
        await run_all(client, [sampled(prompt, 1) for prompt in PROMPTS * 4])
        assert (await refusing.stats()).generated_tokens > 0


async def test_a_z_that_every_replica_refuses_is_refused_and_a_request_ends() -> None:
    engines = [Choosy(), Choosy()]
    async with local_fleet(engines) as (_, client):
        for engine in engines:
            engine.refusal = InvalidZ("never")
        with pytest.raises(InvalidZ, match="never"):
            await client.put_z(Z)
        for engine in engines:
            engine.refusal = None
        await client.put_z(Z)
        # Both forget it and take it no more: the request ends all the same.
        for engine in engines:
            engine.refusal = InvalidZ("never")
            while Z.digest not in engine._known:
                await asyncio.sleep(0.01)
            await FakeEngine.drop_z(engine, Z.digest)
        async with asyncio.timeout(10):
            with pytest.raises(EngineError, match="sent 3 times in vain"):
                await run(client, greedy(PROMPTS[0], Z.digest))


async def test_the_first_replica_may_die_before_it_answers() -> None:
    dying, other = Choosy(), Choosy()
    dying.take.clear()
    async with local_fleet([dying]) as (replicas, client):
        putting = asyncio.create_task(client.put_z(Z))
        while not dying.history:
            await asyncio.sleep(0.01)
        await replicas.end(next(iter(replicas.listeners)))
        await asyncio.sleep(0.05)
        assert not putting.done()
        await replicas.start(other)
        async with asyncio.timeout(10):
            assert await putting == Z.digest
        assert (await run(client, greedy(PROMPTS[0], Z.digest))).token_ids


async def test_a_z_that_is_dropped_and_put_again_at_once_is_known_everywhere() -> None:
    engines = [Choosy(), Choosy()]
    async with local_fleet(engines[:1]) as (replicas, client):
        await client.put_z(Z)
        await replicas.start(engines[1])
        connecting = asyncio.create_task(linked(client, 2))
        for _ in range(5):
            await client.drop_z(Z.digest)
            await client.put_z(Z)
        await connecting
        async with asyncio.timeout(10):
            while [(await engine.stats()).known_z for engine in engines] != [1, 1]:
                await asyncio.sleep(0.01)
        for engine in engines:
            signs = [entry[0] for entry in engine.history]
            assert signs == ["+", "-"] * (len(signs) // 2) + ["+"]


async def test_a_z_that_is_dropped_while_it_is_put_is_unknown_to_all_who_wait() -> None:
    async with local_fleet([]) as (_, client):
        putting = [asyncio.create_task(client.put_z(Z)) for _ in range(2)]
        await asyncio.sleep(0)
        await client.drop_z(Z.digest)
        async with asyncio.timeout(10):
            for found in await asyncio.gather(*putting, return_exceptions=True):
                assert isinstance(found, UnknownZ)
        assert not client._zs._held


async def test_a_z_that_nobody_takes_in_time_is_put_for_none_of_those_who_wait() -> None:
    engine = Choosy()
    engine.take.clear()
    async with local_fleet([engine], wait_seconds=0.2) as (_, client):
        early = asyncio.create_task(client.put_z(Z))
        await asyncio.sleep(0.1)
        late = asyncio.create_task(client.put_z(Z))
        async with asyncio.timeout(10):
            found = await asyncio.gather(early, late, return_exceptions=True)
        assert [type(error) for error in found] == [EngineError] * 2
        engine.take.set()
        # What was sent in vain is dropped again.
        await client.stats()
        async with asyncio.timeout(10):
            while engine._known:
                await asyncio.sleep(0.01)
        assert await client.put_z(Z) == Z.digest


async def test_what_a_replica_forgot_is_put_again() -> None:
    engines = [FakeEngine()]
    async with local_fleet(engines) as (_, client):
        digest = await client.put_z(fake_z(1))
        before = await run(client, greedy(PROMPTS[0], digest))
        score = await client.score(ScoreRequest(PROMPTS[0], PROMPTS[1], digest))
        await engines[0].drop_z(digest)
        assert await run(client, greedy(PROMPTS[0], digest)) == before
        await engines[0].drop_z(digest)
        assert await client.score(ScoreRequest(PROMPTS[0], PROMPTS[1], digest)) == score


async def test_clients_that_share_a_z_do_not_take_it_from_each_other() -> None:
    engines = [FakeEngine(), FakeEngine()]
    async with local_fleet(engines) as (replicas, one), closing(replicas.client()) as other:
        for client in (one, other):
            await client.put_z(fake_z(1))
        digest = fake_z(1).digest
        requests = [replace(sampled(prompt, 3, digest), request_id="same") for prompt in PROMPTS]
        before = await run_all(one, requests)
        # Both use one request's name; the other client ends its own only.
        answers = asyncio.create_task(run_all(one, requests))
        waiting = asyncio.create_task(run(other, replace(sampled(PROMPTS[0], 1, max_tokens=150), request_id="same")))
        await asyncio.sleep(0)
        await other.abort("same")
        with pytest.raises(RequestAborted):
            await waiting
        assert await answers == before
        await one.drop_z(digest)
        assert await run_all(other, requests) == before
        with pytest.raises(UnknownZ):
            await run(one, greedy(PROMPTS[0], digest))
        await other.close()
        async with asyncio.timeout(10):  # until the replicas have heard that it left
            while [(await engine.stats()).known_z for engine in engines] != [0, 0]:
                await asyncio.sleep(0.01)


async def test_a_z_that_is_refused_is_refused_to_all_who_put_it_and_not_kept() -> None:
    async with local_fleet([FakeEngine()]) as (_, client):
        foreign = fake_z(1, base="another")
        outcomes = await asyncio.gather(client.put_z(foreign), client.put_z(foreign), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [WrongBase] * 2
        with pytest.raises(UnknownZ):
            await run(client, greedy(PROMPTS[0], foreign.digest))


async def test_whoever_waits_for_a_z_may_leave_without_taking_it_from_the_others() -> None:
    async with local_fleet([]) as (replicas, client):
        one, other = (asyncio.create_task(client.put_z(fake_z(1))) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        await replicas.start(FakeEngine())
        assert await other == fake_z(1).digest
