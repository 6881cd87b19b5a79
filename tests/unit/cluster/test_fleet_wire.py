"""What travels between a client and a replica: whatever cannot be sent, read or answered fails its request alone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from zfleet.engine.contract import (
    ChoicesRequest,
    GenerationRequest,
    HiddenRequest,
    PromptRequest,
    SamplingParams,
    ScoreRequest,
)
from zfleet.errors import EngineError, InvalidRequest, RegistryUnreachable, ZfleetError
from zfleet.testing.engine_harness import greedy, run, run_all, sampled
from zfleet.testing.fake_engine import FakeEngine, fake_tokens
from zfleet_cluster.fleet import frames
from zfleet_cluster.fleet.messages import Generate
from zfleet_cluster.testing import (
    TOKEN,
    Acting,
    idle,
    local_fleet,
    outcome,
    raises,
)

PROMPT = fake_tokens("hello")
SCORE = ScoreRequest(PROMPT, fake_tokens("you"))


@pytest.mark.parametrize(
    "bad",
    [
        GenerationRequest("a \ud800 b"),
        GenerationRequest(PROMPT, SamplingParams(stop=("\udfff",))),
        GenerationRequest((1, np.int64(2))),  # type: ignore[arg-type]
        GenerationRequest(PROMPT, stream=1),  # type: ignore[arg-type]
        GenerationRequest((2.5,)),  # type: ignore[arg-type]
        GenerationRequest(PROMPT, images=(b"x" * 20_000,)),
        ChoicesRequest(PROMPT, ("a", "\ud800")),
        HiddenRequest("\ud800"),
        PromptRequest("\ud800"),
    ],
    ids=["surrogate", "stop", "numpy", "flag", "fraction", "too large", "choices", "hidden", "prompt"],
)
async def test_a_request_that_cannot_travel_fails_alone(
    bad: GenerationRequest | ChoicesRequest | HiddenRequest | PromptRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "LARGEST_FRAME", 10_000)
    async with local_fleet([FakeEngine()]) as (_, client):
        before = client._links.all()
        # More than one frame holds.
        good = [sampled(PROMPT, seed, max_tokens=5) for seed in range(200)]
        asked: Awaitable[Any]
        match bad:
            case GenerationRequest():
                asked = run(client, bad)
            case ChoicesRequest():
                asked = client.score_choices(bad)
            case PromptRequest():
                asked = client.score_prompt(bad)
            case HiddenRequest():
                asked = client.hidden_state(bad)
        refused, answers = await asyncio.gather(outcome(asked), run_all(client, good))
        assert isinstance(refused, InvalidRequest)
        assert all(answer.token_ids for answer in answers)
        assert client._links.all() == before
        assert idle(client)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: ((np.float64(1.0),),), "a message Scored cannot be sent"),
        (lambda: ("text",), "cannot be read"),
        (raises(EngineError("\ud800")), "a message Failed cannot be sent"),
        (raises(TimeoutError("a timeout of the inside")), "the engine failed: TimeoutError"),
        (raises(ConnectionResetError()), "the engine failed: ConnectionResetError"),
        (raises(asyncio.CancelledError()), "cancelled by its engine"),
    ],
    ids=["numpy", "wrong type", "surrogate", "timeout", "connection", "cancelled"],
)
async def test_whatever_an_engine_does_its_client_hears_of_it(act: Callable[[], Any], said: str) -> None:
    async with local_fleet([Acting(score_choices=act)]) as (_, client):
        before = client._links.all()
        error = await outcome(client.score(SCORE))
        assert isinstance(error, EngineError)
        assert said in str(error)
        assert (await run(client, greedy(PROMPT))).token_ids
        assert client._links.all() == before
        assert idle(client)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: None, "ended the stream before all answers"),
        (raises(TimeoutError()), "the engine failed: TimeoutError"),
        (raises(asyncio.CancelledError()), "cancelled by its engine"),
    ],
    ids=["ends early", "timeout", "cancelled"],
)
async def test_a_stream_that_breaks_ends_with_an_error(act: Callable[[], Any], said: str) -> None:
    async with local_fleet([Acting(generate=act)]) as (_, client):
        error = await outcome(run(client, greedy(PROMPT)))
        assert isinstance(error, EngineError)
        assert said in str(error)
        assert idle(client)


class _OfAnEngine(InvalidRequest):
    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}", "another one")


@pytest.mark.parametrize(
    ("error", "kind"),
    [(_OfAnEngine(7), InvalidRequest), (RegistryUnreachable("away", "wait", "a reason"), RegistryUnreachable)],
)
async def test_errors_arrive_as_their_nearest_kind(error: ZfleetError, kind: type[ZfleetError]) -> None:
    async with local_fleet([Acting(score_choices=raises(error))]) as (_, client):
        arrived = await outcome(client.score(SCORE))
        assert type(arrived) is kind
        assert (arrived.message, arrived.remedy) == (error.message, error.remedy)


async def test_values_that_are_not_finite_arrive_as_they_are() -> None:
    async with local_fleet([Acting(score_choices=lambda: ((math.nan, -math.inf),))]) as (_, client):
        first, second = await client.score(SCORE)
        assert math.isnan(first)
        assert second == -math.inf


async def test_a_client_that_does_not_read_holds_up_no_other() -> None:
    # A slow reader's socket fills; its answers wait, and nobody else's.
    async with local_fleet([FakeEngine(slots=64)]) as (replicas, client):
        (address,) = replicas.listeners
        _, writer = await asyncio.open_connection(address.host, address.port, limit=1024)
        calls = [Generate(number, replace(sampled(PROMPT, 1, max_tokens=300), stream=True)) for number in range(30)]
        writer.write(TOKEN + frames.encode(calls)[0])
        answers = await outcome(run_all(client, [sampled(PROMPT, seed) for seed in range(30)]))
        assert len(answers) == 30
        writer.transport.abort()
        async with asyncio.timeout(10):
            while (await client.stats()).running:
                await asyncio.sleep(0.01)
