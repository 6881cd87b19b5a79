"""Streams: the same answers in pieces, and an event that says when one breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from zfleet.engine.contract import Chunk, GenerationRequest
from zfleet.engine.streams import closing
from zfleet.errors import EngineError
from zfleet_serve.testing import Stage

MESSAGES: Any = [{"role": "user", "content": "math 1 2"}]


async def test_a_chat_streams_in_pieces(stage: Stage) -> None:
    stream = await stage.client.chat.completions.create(
        model="fake:auto", messages=MESSAGES, temperature=0, stream=True, n=2
    )
    texts: dict[int, list[str]] = {0: [], 1: []}
    chunks = [chunk async for chunk in stream]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index].append(choice.delta.content or "")
    assert ["".join(pieces) for pieces in texts.values()] == ["math: math 1 2"] * 2
    assert len(chunks) > 10
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == ["stop", "stop"]
    carrying = [chunk for chunk in chunks if "zfleet" in (chunk.model_extra or {})]
    assert carrying == chunks[-1:]
    said = (chunks[-1].model_extra or {})["zfleet"]
    assert said["mixture"] == [{"expert": "math", "version": 2, "alpha": 1.0}]
    assert said["dispatch"]["label"] == "math"
    assert said["first_pass_ms"] > 0
    assert said["second_pass_ms"] > 0


async def test_usage_comes_last_when_asked_for(stage: Stage) -> None:
    stream = await stage.client.chat.completions.create(
        model="fake", messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (8, 15)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert "zfleet" in (last.model_extra or {})


async def test_completions_stream(stage: Stage) -> None:
    stream = await stage.client.completions.create(
        model="fake:sort", prompt="ba", temperature=0, stream=True, logprobs=0, stop="ba"
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "sort: "
    found = [chunk.choices[0].logprobs for chunk in chunks]
    assert [token for logprobs in found if logprobs for token in logprobs.tokens or ()] == list("sort: ba")


async def test_mistakes_before_the_first_chunk_have_a_status(stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError):
        await stage.client.chat.completions.create(model="fake:nobody", messages=MESSAGES, stream=True)
    with pytest.raises(openai.BadRequestError):
        await stage.client.chat.completions.create(model="fake", messages=MESSAGES, stream=True, max_tokens=10**6)


@pytest.mark.parametrize("error", [EngineError("the engine replica failed", "send it again"), OSError("secret")])
async def test_a_broken_stream_ends_in_an_error_event(
    stage: Stage, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stage.engine.generate

    async def breaking(request: GenerationRequest) -> AsyncIterator[Chunk]:
        async with closing(whole(request)) as chunks:
            for _ in range(3):
                yield await anext(chunks)
            raise error

    monkeypatch.setattr(stage.engine, "generate", breaking)
    body = {"model": "fake", "messages": MESSAGES, "stream": True}
    response = await stage.http.post("/v1/chat/completions", json=body)
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert "[DONE]" not in events
    failure = json.loads(events[-1])["error"]
    assert failure["type"] == "server_error"
    assert ("send it again" in failure["message"]) == isinstance(error, EngineError)
    assert "secret" not in response.text
    stream = await stage.client.chat.completions.create(model="fake", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match=r"failed|internal error"):
        async for _ in stream:
            pass
    assert (await stage.engine.stats()).running == 0


async def test_a_client_that_leaves_ends_its_request(stage: Stage) -> None:
    body = {"model": "fake", "messages": MESSAGES, "stream": True}
    request = asyncio.create_task(stage.http.post("/v1/chat/completions", json=body))
    while not (await stage.engine.stats()).running:
        await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert (await stage.engine.stats()).running == 0


async def test_an_answer_under_another_z_reaches_no_client(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def generate(request: GenerationRequest) -> AsyncIterator[Chunk]:
        yield Chunk(0, "wrong", (1,), (), "stop", 1, "f" * 64)

    stage.engine.generate = generate  # type: ignore[method-assign]
    body = {"model": "fake", "messages": [{"role": "user", "content": "a"}]}
    answer = await stage.http.post("/v1/chat/completions", json=body)
    assert answer.status_code >= 500
    assert "wrong" not in answer.text
    assert "the engine answered under ffffffffffff" in caplog.text
