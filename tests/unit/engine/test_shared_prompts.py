"""Answers that begin with the same prompt share its computation, and long prompts are computed in pieces."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from zfleet.config.specs import EngineSpec
from zfleet.engine.contract import BASE_Z, Completion, GenerationRequest, SamplingParams, collect
from zfleet.engine.torch_engine import engine as engine_module
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import RequestAborted
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_harness import greedy, run, run_all, sampled
from zfleet.testing.seeing import GREEDY, Seeing, noise

PIECE = 8
LONG = tuple(range(5, 35))
SHORT = (7, 9, 11)

Passes = list[tuple[int, int]]


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that are made from now on compute at most so many tokens of prompts beside answers under way."""
    monkeypatch.setattr(engine_module, "piece_tokens", lambda model: PIECE)


def _prompts(passes: Passes) -> Passes:
    """The passes over prompts: those with more than one column."""
    return [shape for shape in passes if shape[1] > 1]


async def test_the_answers_of_a_request_share_its_prompt(tiny_model: SvfModel, passes: Passes) -> None:
    engine = TorchEngine(tiny_model)
    answers = await collect(engine, sampled(LONG, 3, n=6))
    assert _prompts(passes) == [(1, len(LONG))]
    # Answer i draws by seed and i alone, so that others of the request do not matter.
    assert await collect(engine, sampled(LONG, 3, n=2)) == answers[:2]
    assert len({answer.token_ids for answer in answers}) > 1
    await engine.close()


async def test_a_group_shares_its_prompt_and_answers_as_each_alone(
    tiny_model: SvfModel, make_z: Callable[..., ZVector], passes: Passes
) -> None:
    engine = TorchEngine(tiny_model)
    z = await engine.put_z(make_z(1))
    requests = [sampled(LONG, seed, z) for seed in range(5)]
    alone = [await run(engine, request) for request in requests]
    assert _prompts(passes) == [(1, len(LONG))] * 5
    passes.clear()
    assert await run_all(engine, requests) == alone
    assert _prompts(passes) == [(1, len(LONG))]
    await engine.close()


async def test_prompts_are_shared_under_the_same_z_only(
    tiny_model: SvfModel, make_z: Callable[..., ZVector], passes: Passes
) -> None:
    engine = TorchEngine(tiny_model)
    digests = [BASE_Z, *[await engine.put_z(make_z(seed)) for seed in range(2)]]
    requests = [greedy(LONG, z) for z in digests]
    alone = [await run(engine, request) for request in requests]
    passes.clear()
    assert await run_all(engine, [*requests, *(replace(one, request_id=one.request_id + "b") for one in requests)]) == (
        alone * 2
    )
    assert _prompts(passes) == [(3, len(LONG))]
    assert len({answer.token_ids for answer in alone}) == 3
    await engine.close()


async def test_a_prompt_is_taken_over_from_an_answer_that_still_runs(
    tiny_model: SvfModel, make_z: Callable[..., ZVector], passes: Passes
) -> None:
    engine = TorchEngine(tiny_model)
    z = await engine.put_z(make_z(1))
    late = [sampled(LONG, seed, z) for seed in range(3)]
    alone = [await run(engine, request) for request in late]
    first = engine.generate(replace(sampled(LONG, 9, z, max_tokens=60), stream=True))
    await anext(aiter(first))
    passes.clear()
    assert await run_all(engine, late) == alone
    assert _prompts(passes) == []
    rest = [token async for chunk in first for token in chunk.token_ids]
    assert len(rest) == 59
    await engine.close()


async def test_images_are_part_of_a_prompt(seeing: Seeing) -> None:
    engine = TorchEngine(seeing.model)
    pictures = [noise(1), noise(2)]
    for text in ("<image>flip abc", "flip abc <image>"):
        requests = [
            GenerationRequest(text, replace(GREEDY, max_tokens=20 - 4 * i), images=(p,))
            for i, p in enumerate([*pictures, *pictures])
        ]
        alone = [await run(engine, request) for request in requests]
        assert alone[0].token_ids != alone[1].token_ids
        assert await run_all(engine, requests) == alone
        # And taken over from an answer that runs.
        first = engine.generate(replace(requests[0], request_id="first", stream=True))
        await anext(aiter(first))
        assert await run_all(engine, requests) == alone
        async for _ in first:
            pass
    await engine.close()


@pytest.mark.usefixtures("pieces")
async def test_a_long_prompt_is_computed_in_pieces_beside_others(tiny_model: SvfModel, passes: Passes) -> None:
    whole = TorchEngine(tiny_model, EngineSpec(slots=4))
    whole._schedule._piece = 1000
    requests = [greedy(LONG), greedy(LONG[:26]), greedy(SHORT, max_tokens=40)]
    expected = [await run(whole, request) for request in requests]
    await whole.close()

    engine = TorchEngine(tiny_model, EngineSpec(slots=4))
    short = engine.generate(replace(requests[2], stream=True))
    tokens = list((await anext(aiter(short))).token_ids)
    passes.clear()
    long = [asyncio.create_task(run(engine, request)) for request in requests[:2]]
    tokens += [token async for chunk in short for token in chunk.token_ids]
    assert tuple(tokens) == expected[2].token_ids
    assert await asyncio.gather(*long) == expected[:2]
    computed = _prompts(passes)
    assert all(rows == 1 and columns <= PIECE for rows, columns in computed)
    assert sum(columns for _, columns in computed) == len(LONG) + 26
    # Between two pieces the other answer got a token.
    firsts = [place for place, shape in enumerate(passes) if shape[1] > 1]
    assert any(shape == (1, 1) for shape in passes[firsts[0] : firsts[3]])
    await engine.close()


@pytest.mark.usefixtures("pieces")
async def test_short_prompts_do_not_wait_for_a_long_one(tiny_model: SvfModel) -> None:
    engine = TorchEngine(tiny_model, EngineSpec(slots=4))
    order: list[str] = []

    async def answer(name: str, request: GenerationRequest) -> Completion:
        completion = await run(engine, request)
        order.append(name)
        return completion

    await asyncio.gather(
        answer("long", greedy(LONG * 4, max_tokens=1)),
        *(answer("short", greedy(SHORT, max_tokens=2)) for _ in range(2)),
    )
    assert order == ["short", "short", "long"]
    await engine.close()


@pytest.mark.usefixtures("pieces")
async def test_a_long_prompt_is_shared_too(tiny_model: SvfModel, passes: Passes) -> None:
    whole = TorchEngine(tiny_model, EngineSpec(slots=8))
    whole._schedule._piece = 1000
    alone = await collect(whole, sampled(LONG, 5, n=3))
    await whole.close()
    assert [columns for _, columns in _prompts(passes)] == [len(LONG)], "computed in one pass"
    passes.clear()
    engine = TorchEngine(tiny_model, EngineSpec(slots=8))
    first = asyncio.create_task(collect(engine, sampled(LONG, 5, n=2)))
    while not passes:
        await asyncio.sleep(0)
    # In the middle of the prompt.
    second = await collect(engine, sampled(LONG, 5, n=3))
    assert second == alone
    assert await first == alone[:2]
    assert sum(columns for _, columns in _prompts(passes)) == len(LONG)
    await engine.close()


@pytest.mark.usefixtures("pieces")
async def test_a_long_prompt_ends_with_its_last_answer(tiny_model: SvfModel, passes: Passes) -> None:
    engine = TorchEngine(tiny_model, EngineSpec(slots=8))
    expected = await run(engine, greedy(LONG))
    leaving = [replace(greedy(LONG), request_id=name) for name in ("one", "two")]
    for stays in (True, False):
        passes.clear()
        tasks = [asyncio.create_task(run(engine, request)) for request in leaving]
        others = [asyncio.create_task(run(engine, greedy(LONG)))] if stays else []
        while not passes:
            await asyncio.sleep(0)
        for request in leaving:
            await engine.abort(request.request_id)
        assert [type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)] == [RequestAborted] * 2
        assert await asyncio.gather(*others) == [expected] * len(others)
        stats = await engine.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        assert (sum(columns for _, columns in _prompts(passes)) == len(LONG)) == stays
    await engine.close()


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("seed", range(4))
async def test_any_crowd_answers_as_each_request_alone(
    tiny_model: SvfModel, make_z: Callable[..., ZVector], seed: int
) -> None:
    """Prompts, z, lengths and times of arrival by chance; many are the same."""
    chance = random.Random(seed)
    engine = TorchEngine(tiny_model, EngineSpec(slots=5, z_rows=3))
    digests = [BASE_Z, *[await engine.put_z(make_z(number)) for number in range(3)]]
    prompts = [SHORT, LONG, LONG[:20], LONG[:9], SHORT[:1], LONG * 2]
    requests = [
        GenerationRequest(
            chance.choice(prompts),
            SamplingParams(
                temperature=chance.choice([0.0, 1.0]),
                top_p=chance.choice([1.0, 0.8]),
                max_tokens=chance.randint(1, 12),
                seed=chance.randrange(3),
                n=chance.choice([1, 1, 2, 5]),
                ignore_eos=True,
            ),
            chance.choice(digests),
            stream=chance.random() < 0.5,
        )
        for _ in range(24)
    ]
    alone = [await collect(engine, request) for request in requests]

    async def late(request: GenerationRequest) -> Any:
        for _ in range(chance.randrange(200)):
            await asyncio.sleep(0)
        return await collect(engine, request)

    together = await asyncio.gather(*(late(request) for request in requests))
    assert [[answer.token_ids for answer in answers] for answers in together] == [
        [answer.token_ids for answer in answers] for answers in alone
    ]
    stats = await engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    await engine.close()
