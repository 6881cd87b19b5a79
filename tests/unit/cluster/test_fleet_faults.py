"""A fleet whose replicas hang, die or cannot be found: every request ends, with an answer or an error that says why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from zfleet.engine.contract import ScoreRequest
from zfleet.errors import EngineError
from zfleet.testing.engine_harness import run_all, sampled
from zfleet.testing.fake_engine import FakeEngine, fake_tokens
from zfleet_cluster.fleet import client as client_module
from zfleet_cluster.fleet import link, links, questions
from zfleet_cluster.fleet.listener import Address
from zfleet_cluster.testing import (
    MAX_LENGTH,
    Acting,
    LocalReplicas,
    for_ever,
    idle,
    linked,
    local_fleet,
    outcome,
    raises,
)

PROMPT = fake_tokens("hello")
SCORE = ScoreRequest(PROMPT, fake_tokens("you"))


async def test_a_replica_that_accepts_and_says_nothing_gets_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "HANG_SECONDS", 0.2)
    connected = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()  # nobody writes so much
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1")
    stranger = Address("silent", "127.0.0.1", server.sockets[0].getsockname()[1], MAX_LENGTH)
    async with local_fleet([FakeEngine()]) as (replicas, client):
        replicas.strangers.add(stranger)
        async with asyncio.timeout(10):
            await connected.wait()
            assert len(await run_all(client, [sampled(PROMPT, seed) for seed in range(10)])) == 10
            await asyncio.sleep(0.3)
        assert len(client._links.all()) == 1
    server.close()


async def test_a_client_that_closes_while_it_connects_leaves_nobody_waiting() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1")
    replicas = LocalReplicas()
    replicas.strangers.add(Address("silent", "127.0.0.1", server.sockets[0].getsockname()[1], MAX_LENGTH))
    client = replicas.client()
    asked = asyncio.gather(client.score(SCORE), client.stats(), return_exceptions=True)
    async with asyncio.timeout(10):
        while not client._links._connecting:
            await asyncio.sleep(0.01)
        await client.close()
        for found in await asked:
            assert isinstance(found, EngineError)
            assert "closed" in str(found)
    assert not client._links._connecting
    server.close()


@pytest.mark.parametrize("check", [raises(EngineError("a step hangs")), for_ever], ids=["unwell", "silent"])
async def test_a_replica_that_hangs_loses_its_requests(
    check: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("SILENT_SECONDS", 0.2), ("HANG_SECONDS", 1.0)):
        monkeypatch.setattr(link, name, seconds)
    monkeypatch.setattr(links, "LOOK_SECONDS", 0.02)
    hanging, well = Acting(), Acting(score_choices=lambda: ((1.0,),))
    async with local_fleet([hanging, well]) as (_, client):
        hanging.acts |= {"score_choices": for_ever, "check_health": check}
        assert await outcome(asyncio.gather(*(client.score(SCORE) for _ in range(4)))) == [(1.0,)] * 4
        assert hanging.called["score_choices"] == 2
        assert len(client._links.all()) == 1
        # It is used again when it is well again.
        hanging.acts.clear()
        await linked(client, 2)
        assert idle(client)


async def test_an_engine_that_works_in_silence_keeps_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SILENT_SECONDS", 0.02)
    monkeypatch.setattr(links, "LOOK_SECONDS", 0.02)

    async def slowly() -> tuple[tuple[float, ...], ...]:
        while engine.called["check_health"] < 4:
            await asyncio.sleep(0.01)
        return ((1.0,),)

    engine = Acting(score_choices=slowly)
    async with local_fleet([engine]) as (_, client):
        assert await outcome(client.score(SCORE)) == (1.0,)
        assert engine.called["score_choices"] == 1


async def test_one_replica_that_does_not_answer_holds_up_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "_LATE_SECONDS", 0.05)
    silent = Acting()
    async with local_fleet([silent, FakeEngine(z_rows=7)]) as (_, client):
        silent.acts |= {"stats": for_ever, "check_health": for_ever}
        assert (await outcome(client.stats())).table_rows == 7
        assert await outcome(client.check_health()) is None
        assert not client._questions._asked


async def test_questions_that_nobody_answers_end() -> None:
    engine = Acting()
    async with local_fleet([engine], wait_seconds=1.0) as (_, client):
        engine.acts |= {"stats": for_ever, "check_health": raises(EngineError("a step hangs"))}
        assert "no replica of the engine answered within 1 s" in str(await outcome(client.stats()))
        assert "a step hangs" in str(await outcome(client.check_health()))
        asked = asyncio.create_task(client.stats())
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert not client._questions._asked


async def test_a_search_for_replicas_that_fails_is_told_and_tried_again() -> None:
    async with local_fleet([]) as (replicas, client):
        replicas.error = RuntimeError("no list of replicas")
        error = await outcome(client.score(SCORE))
        assert isinstance(error, EngineError)
        assert "RuntimeError: no list of replicas" in str(error)
        replicas.error = None
        await replicas.start(FakeEngine())
        assert len(await outcome(client.score(SCORE))) == 3
        # With a replica there, nobody hears of it.
        replicas.error = RuntimeError("no list of replicas")
        assert len(await outcome(client.score(SCORE))) == 3


async def test_a_search_that_hangs_keeps_nobody_longer_than_the_limit() -> None:
    class Hanging(LocalReplicas):
        async def find(self) -> Any:
            await for_ever()

    client = Hanging().client(wait_seconds=0.1)
    assert "no replica of the engine answered within 0.1 s" in str(await outcome(client.score(SCORE)))
    assert idle(client)
    await client.close()


async def test_a_request_waits_from_when_its_replica_died() -> None:
    slow = Acting(score_choices=for_ever)
    async with local_fleet([slow], wait_seconds=1.0) as (replicas, client):
        asked = asyncio.create_task(client.score(SCORE))
        await asyncio.sleep(1.1)
        await replicas.end(next(iter(replicas.listeners)))
        await asyncio.sleep(0.1)
        assert len(client._unsent) == 1
        await replicas.start(FakeEngine())
        assert len(await outcome(asked)) == 3
        assert idle(client)


async def test_a_request_that_kills_its_replicas_fails_before_all_are_dead() -> None:
    async with local_fleet([]) as (replicas, client):

        async def kill() -> None:
            (address,) = [address for address, listener in replicas.listeners.items() if listener.engine in acting]
            await replicas.end(address)

        acting: list[FakeEngine] = []
        asked = asyncio.create_task(client.score(SCORE))
        for number in range(client_module.ATTEMPTS):
            acting.append(Acting(score_choices=lambda: asyncio.get_running_loop().create_task(kill()) and for_ever()))
            await replicas.start(acting[number])
            async with asyncio.timeout(10):
                while replicas.listeners:
                    await asyncio.sleep(0.01)
        assert "sent 3 times in vain" in str(await outcome(asked))
        assert idle(client)


async def test_requests_that_leave_while_nobody_answers_leave_nothing() -> None:
    async with local_fleet([]) as (_, client):
        asked = [asyncio.create_task(client.score(SCORE)) for _ in range(100)]
        await asyncio.sleep(0.01)
        assert len(client._unsent) == 100
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert idle(client)
