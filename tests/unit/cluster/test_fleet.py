"""The fleet's client and listeners in one process: the engine contract, and replicas that come, go and forget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from zfleet.engine.contract import BASE_Z, ChoicesRequest, Chunk, Engine, GenerationRequest, ScoreRequest
from zfleet.errors import BaseModelError, EngineError
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_conformance import EngineConformance
from zfleet.testing.engine_harness import greedy, run, run_all, sampled
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z
from zfleet_cluster.fleet.client import FleetEngine
from zfleet_cluster.fleet.link import Link
from zfleet_cluster.fleet.listener import Address
from zfleet_cluster.testing import MAX_LENGTH, TOKEN, LocalReplicas, closing, linked, local_fleet

PROMPTS = tuple(fake_tokens(text) for text in ("abc", "hello", "a", "one two three", "xy", "zz top"))


class TestFleetEngine(EngineConformance):
    """One replica: more would each count the z that they hold."""

    prompts = PROMPTS

    async def make_engine(self, *, z_rows: int, slots: int) -> Engine:
        replicas = LocalReplicas()
        await replicas.start(FakeEngine(z_rows=z_rows, slots=slots, step_seconds=0.0005, max_length=MAX_LENGTH))
        return _Owner(replicas)

    def make_z(self, seed: int) -> ZVector:
        return fake_z(seed)


class _Owner(FleetEngine):
    """A client that ends its replicas, too."""

    def __init__(self, replicas: LocalReplicas) -> None:
        super().__init__(replicas, TOKEN, MAX_LENGTH, 20.0)
        self._owned = replicas

    async def close(self) -> None:
        await super().close()
        await self._owned.end_all()


def _engines(count: int) -> list[FakeEngine]:
    return [FakeEngine(step_seconds=0.0005, slots=16) for _ in range(count)]


async def test_replicas_share_the_work_and_every_z_is_everywhere() -> None:
    engines = _engines(3)
    async with local_fleet(engines) as (_, client):
        digests = [await client.put_z(fake_z(seed)) for seed in range(4)]
        requests = [sampled(prompt, 5, digest) for prompt in PROMPTS for digest in (BASE_Z, *digests)]
        answers = await run_all(client, requests)
        alone = FakeEngine()
        for seed in range(4):
            await alone.put_z(fake_z(seed))
        assert answers == await run_all(alone, requests)
        tokens = [(await engine.stats()).generated_tokens for engine in engines]
        assert max(tokens) == min(tokens)
        assert [(await engine.stats()).known_z for engine in engines] == [4] * 3
        await client.drop_z(digests[0])
        async with asyncio.timeout(10):
            while [(await engine.stats()).known_z for engine in engines] != [3] * 3:
                await asyncio.sleep(0.01)


async def test_requests_that_begin_alike_go_to_one_replica_while_it_is_idle() -> None:
    engines = _engines(3)
    async with local_fleet(engines) as (replicas, client), closing(replicas.client()) as other:
        await linked(other, 3)
        for _ in range(4):
            await run(client, greedy(PROMPTS[3]))
            await run(other, greedy(PROMPTS[3]))
        tokens = sorted([(await engine.stats()).generated_tokens for engine in engines])
        assert tokens[:2] == [0, 0]


async def test_a_replica_that_joins_knows_every_z_before_it_is_asked() -> None:
    async with local_fleet(_engines(1)) as (replicas, client):
        digest = await client.put_z(fake_z(1))
        before = await run_all(client, [greedy(prompt, digest) for prompt in PROMPTS])
        (first,) = replicas.listeners
        await replicas.start(_engines(1)[0])
        await replicas.end(first)
        assert await run_all(client, [greedy(prompt, digest) for prompt in PROMPTS]) == before


async def test_a_replica_that_leaves_gets_nothing_new_and_ends_what_it_has() -> None:
    slow = [FakeEngine(step_seconds=0.02) for _ in range(2)]  # until the client has seen who is leaving
    async with local_fleet(slow) as (replicas, client):
        long = replace(sampled(PROMPTS[0], 1, max_tokens=150), stream=True)
        streams = [client.generate(long) for _ in range(2)]
        begun = [await anext(stream) for stream in streams]
        leaving = next(iter(replicas.listeners))
        replicas.hidden.add(leaving)
        async with asyncio.timeout(10):
            while client._links._leaving != {leaving.replica}:
                await asyncio.sleep(0.01)
        await run_all(client, [greedy(prompt, max_tokens=2) for prompt in PROMPTS])
        stats = await replicas.listeners[leaving].engine.stats()
        assert (stats.running, stats.peak_batch) == (1, 1)
        for first, stream in zip(begun, streams, strict=True):
            tokens = len(first.token_ids) + sum([len(chunk.token_ids) async for chunk in stream])
            assert tokens == 150


async def test_when_a_replica_dies_each_request_ends_with_its_answer_or_an_error() -> None:
    async with local_fleet(_engines(2)) as (replicas, client):
        digest = await client.put_z(fake_z(1))
        long = [replace(sampled(prompt, 7, digest, max_tokens=150), stream=True) for prompt in PROMPTS]
        streams = [client.generate(request) for request in long]
        begun = [await anext(stream) for stream in streams]
        unsent = [sampled(prompt, 9, digest, max_tokens=30) for prompt in PROMPTS]
        waiting = asyncio.create_task(_all(client, unsent))
        await asyncio.sleep(0)
        await replicas.end(next(iter(replicas.listeners)))
        outcomes = await asyncio.gather(
            *(_rest(stream, first) for stream, first in zip(streams, begun, strict=True)), return_exceptions=True
        )
        alone = FakeEngine()
        await alone.put_z(fake_z(1))
        whole, answers = await run_all(alone, long), await run_all(alone, unsent)
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(lost) == 3
        assert all("died with the request" in str(error) for error in lost)
        for outcome, answer in zip(outcomes, whole, strict=True):
            assert isinstance(outcome, EngineError) or outcome == answer.token_ids
        assert await waiting == answers


async def test_requests_wait_for_a_replica_that_comes_back() -> None:
    async with local_fleet([]) as (replicas, client):
        putting = asyncio.create_task(client.put_z(fake_z(1)))
        asked = asyncio.create_task(run(client, greedy(PROMPTS[0])))
        await asyncio.sleep(0.05)
        assert not putting.done()
        assert not asked.done()
        await replicas.start(_engines(1)[0])
        assert await putting == fake_z(1).digest
        assert len((await asked).token_ids) == 12


async def test_nobody_waits_longer_than_the_limit() -> None:
    replicas = LocalReplicas()
    async with closing(replicas.client(wait_seconds=0.2)) as client:
        outcomes = await asyncio.gather(
            run(client, greedy(PROMPTS[0])), client.put_z(fake_z(1)), client.stats(), return_exceptions=True
        )
        for outcome in outcomes:
            assert isinstance(outcome, EngineError)
            assert "no replica of the engine answered within 0.2 s" in str(outcome)


async def test_why_no_replica_will_come_is_said_as_it_was_raised() -> None:
    async with local_fleet([]) as (replicas, client):
        asked = asyncio.gather(run(client, greedy(PROMPTS[0])), client.put_z(fake_z(1)), return_exceptions=True)
        replicas.failure = BaseModelError("the base is damaged", "fetch it again")
        for outcome in await asked:
            assert isinstance(outcome, BaseModelError)


async def test_a_reader_that_leaves_ends_its_request() -> None:
    engines = _engines(1)
    async with local_fleet(engines) as (_, client):
        stream = client.generate(replace(sampled(PROMPTS[0], 1, max_tokens=180), stream=True))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while (await engines[0].stats()).running:
                await asyncio.sleep(0.01)


class _Breaks(FakeEngine):
    async def score_choices(self, request: ChoicesRequest) -> tuple[tuple[float, ...], ...]:
        raise RuntimeError("a secret of the inside")


async def test_an_error_nobody_foresaw_fails_its_request_alone() -> None:
    async with local_fleet([_Breaks()]) as (_, client):
        score, answer = await asyncio.gather(
            client.score(ScoreRequest(PROMPTS[0], PROMPTS[1])), run(client, greedy(PROMPTS[0])), return_exceptions=True
        )
        assert isinstance(score, EngineError)
        assert "RuntimeError" in str(score)
        assert "secret" not in str(score)
        assert not isinstance(answer, BaseException)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n" + b" " * 32, bytes(32), TOKEN + b"\xff\xff\xff\xff", TOKEN + b"\0\0\0\1\xc1"],
    ids=["http", "wrong token", "endless frame", "no message"],
)
async def test_strangers_and_broken_frames_are_turned_away(data: bytes) -> None:
    async with local_fleet(_engines(1)) as (replicas, client):
        (address,) = replicas.listeners
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(data)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        assert len((await run(client, greedy(PROMPTS[0]))).token_ids) == 12


async def test_a_link_to_nobody_says_so() -> None:
    with pytest.raises(OSError, match="onnect"):
        await Link(Address("gone", "127.0.0.1", 1, 200), lambda _: None).connect(TOKEN)


async def _all(engine: Engine, requests: list[GenerationRequest]) -> list[object]:
    return list(await run_all(engine, requests))


async def _rest(stream: AsyncIterator[Chunk], first: Chunk) -> tuple[int, ...]:
    tokens = list(first.token_ids)
    async for chunk in stream:
        tokens.extend(chunk.token_ids)
    return tuple(tokens)
