"""An engine behind limits is still an engine, and ends what takes too long."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from zfleet.engine.contract import ChoicesRequest, Engine, GenerationRequest, SamplingParams, collect
from zfleet.errors import DeadlineExceeded, LimitReached
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_conformance import EngineConformance
from zfleet.testing.engine_harness import sampled
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z
from zfleet_serve.access.amount import Amount
from zfleet_serve.access.context import RequestContext, current
from zfleet_serve.access.engine import PART, LimitedEngine
from zfleet_serve.access.fair_queue import FairQueue, Tenant
from zfleet_serve.access.keys import Key, KeySettings
from zfleet_serve.access.limits import Rates

PROMPT = fake_tokens("hello")


def limited(engine: Engine, capacity: int = 16) -> tuple[LimitedEngine, FairQueue]:
    queue = FairQueue(lambda: capacity, 1000, 1000)
    return LimitedEngine(engine, queue, Rates()), queue


class TestLimitedEngine(EngineConformance):
    prompts = tuple(fake_tokens(text) for text in ("abc", "hello", "a", "one two three", "xy", "zz top"))

    async def make_engine(self, *, z_rows: int, slots: int) -> Engine:
        return limited(FakeEngine(z_rows=z_rows, slots=slots, step_seconds=0.0005), 2 * slots)[0]

    def make_z(self, seed: int) -> ZVector:
        return fake_z(seed)


@pytest.mark.parametrize("stream", [False, True])
async def test_many_answers_come_in_parts_and_are_the_same(stream: bool) -> None:
    engine = FakeEngine()
    whole = replace(sampled(PROMPT, 7, n=3 * PART + 1), stream=stream)
    behind, queue = limited(engine, capacity=PART)
    assert await collect(behind, whole) == await collect(engine, whole)
    assert (queue.running, queue.waiting) == (0, 0)
    await engine.close()


async def test_answers_that_wait_leave_others_their_turn() -> None:
    engine = FakeEngine(slots=4)
    behind, _ = limited(engine, capacity=4)
    ended: list[str] = []

    async def ask(name: str, n: int) -> None:
        current.set(RequestContext(Tenant(name)))
        await collect(behind, sampled(PROMPT, 1, n=n, max_tokens=10))
        ended.append(name)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(5):
            tasks.create_task(ask("flood", 64))
        await asyncio.sleep(0.01)
        tasks.create_task(ask("short", 1))
    assert ended[0] == "short"
    await engine.close()


async def test_what_is_used_is_counted_once_for_a_prompt() -> None:
    engine = FakeEngine()
    behind, _ = limited(engine)
    context = RequestContext(Tenant("one"))
    token = current.set(context)
    await collect(behind, sampled(PROMPT, 1, n=PART + 1, max_tokens=3))
    assert context.used == Amount(prompt_tokens=5, completion_tokens=3 * (PART + 1))
    await behind.score_choices(ChoicesRequest(PROMPT, (fake_tokens("ab"), fake_tokens("c"))))
    assert context.used.first_pass_tokens == 8
    current.reset(token)
    await engine.close()


async def test_a_reader_that_leaves_pays_for_what_was_generated() -> None:
    engine = FakeEngine(step_seconds=0.001)
    behind, queue = limited(engine)
    context = RequestContext(Tenant("one"))
    token = current.set(context)
    request = replace(sampled(PROMPT, 1, max_tokens=100), stream=True)
    chunks = behind.generate(request)
    for _ in range(3):
        await anext(chunks)
    await chunks.aclose()
    assert context.used == Amount(prompt_tokens=5, completion_tokens=3)
    assert (queue.running, (await engine.stats()).running) == (0, 0)
    current.reset(token)
    await engine.close()


async def test_tokens_are_reserved_and_given_back() -> None:
    engine = FakeEngine()
    behind, _ = limited(engine)
    settings = KeySettings(tokens_per_minute=60)
    key = Key("0123456789ab", "one", settings, 0.0, None, None, "", None, None)
    token = current.set(RequestContext(Tenant("one"), key))
    request = GenerationRequest(PROMPT, SamplingParams(max_tokens=10, seed=1, ignore_eos=True))
    for _ in range(4):
        await collect(behind, request)
    with pytest.raises(LimitReached):
        await collect(behind, request)
    current.reset(token)
    await engine.close()


async def test_a_request_ends_at_its_deadline_while_it_waits_and_while_it_runs() -> None:
    engine = FakeEngine(step_seconds=0.002)
    behind, queue = limited(engine, capacity=1)
    token = current.set(RequestContext(Tenant("one"), deadline=asyncio.get_running_loop().time() + 0.1))
    slow = sampled(PROMPT, 1, max_tokens=400)
    ended = await asyncio.gather(*(collect(behind, slow) for _ in range(2)), return_exceptions=True)
    assert [type(error) for error in ended] == [DeadlineExceeded] * 2
    assert (queue.running, queue.waiting, (await engine.stats()).running) == (0, 0, 0)
    current.reset(token)
    await engine.close()
