"""Alternatives of tokens, and prompts that are echoed with their own log-probabilities."""

from __future__ import annotations

from typing import Any

import pytest

from zfleet.engine.contract import PromptRequest
from zfleet.testing.fake_engine import fake_tokens
from zfleet_serve.testing import Stage

CHAT: Any = [{"role": "user", "content": "ab"}]


@pytest.mark.parametrize("count", [0, 1, 5, 20])
async def test_a_chat_has_so_many_alternatives(stage: Stage, count: int) -> None:
    answer: Any = await stage.client.chat.completions.create(
        model="fake:sort", messages=CHAT, logprobs=True, top_logprobs=count, temperature=0
    )
    entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == "sort: ab"
    for entry in entries:
        assert len(entry.top_logprobs) == count
        assert not count or (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob) == (entry.token, entry.logprob)
        assert [bytes(other.bytes).decode() for other in entry.top_logprobs] == [o.token for o in entry.top_logprobs]


async def test_a_completion_has_alternatives_by_their_text(stage: Stage) -> None:
    answer: Any = await stage.client.completions.create(model="fake:sort", prompt="ab", logprobs=3, temperature=0)
    logprobs = answer.choices[0].logprobs
    for token, logprob, others in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert len(others) == 3
        assert others[token] == logprob == max(others.values())


@pytest.mark.parametrize("max_tokens", [0, 1, 50])
@pytest.mark.parametrize("n", [1, 2])
async def test_an_echo_has_the_prompts_log_probabilities(stage: Stage, max_tokens: int, n: int) -> None:
    """As lm-evaluation-harness asks for them: several prompts, as token ids."""
    prompts = ["hello", "you", "x"]
    body = {"prompt": [list(fake_tokens(prompt)) for prompt in prompts], "max_tokens": max_tokens, "echo": True}
    body |= {"model": "fake:sort", "logprobs": 1, "temperature": 0, "seed": 1234, "n": n}
    z = stage.registry.resolve("sort", "fake-0123abcd").z_digest
    answer = (await stage.http.post("/v1/completions", json=body)).json()
    expected = [await stage.engine.score_prompt(PromptRequest(prompt, 1, z)) for prompt in prompts]
    assert answer["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert [choice["index"] for choice in answer["choices"]] == list(range(3 * n))
    for choice in answer["choices"]:
        prompt, scores = prompts[choice["index"] // n], expected[choice["index"] // n]
        logprobs, length = choice["logprobs"], len(prompts[choice["index"] // n])
        assert choice["text"] == prompt + f"sort: {prompt}"[:max_tokens]
        assert choice["finish_reason"] == ("stop" if max_tokens == 50 else "length")
        assert logprobs["token_logprobs"][:length] == [None, *scores.logprobs]
        assert logprobs["top_logprobs"][0] is None
        for (token, value), others in zip(
            (other for (other,) in scores.top_logprobs), logprobs["top_logprobs"][1:length], strict=True
        ):
            assert max(others.values()) == value
            assert token == 0 or others[chr(token)] == value
        assert "".join(logprobs["tokens"]) == choice["text"]
        said = len(choice["text"]) + (max_tokens == 50)
        assert logprobs["text_offset"] == list(range(said))
        assert len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"]) == said


async def test_an_echo_streams_the_same(stage: Stage) -> None:
    options: dict[str, Any] = {"prompt": ["ab", "c"], "max_tokens": 3, "echo": True, "logprobs": 2, "temperature": 0}
    whole: Any = await stage.client.completions.create(model="fake", **options)
    texts = ["", ""]
    logprobs: list[list[float | None]] = [[], []]
    async for chunk in await stage.client.completions.create(model="fake", stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            logprobs[choice.index] += choice.logprobs.token_logprobs
    assert texts == [choice.text for choice in whole.choices]
    assert logprobs == [choice.logprobs.token_logprobs for choice in whole.choices]


async def test_an_echo_needs_no_log_probabilities(stage: Stage) -> None:
    answer: Any = await stage.client.completions.create(model="fake", prompt="ab", echo=True, max_tokens=0)
    assert (answer.choices[0].text, answer.choices[0].logprobs) == ("ab", None)
    assert (await stage.engine.stats()).generated_tokens == 0


async def test_nothing_to_answer_is_refused(stage: Stage) -> None:
    body = {"model": "fake", "prompt": "ab", "max_tokens": 0}
    response = await stage.http.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert "echo" in response.json()["error"]["message"]


async def test_a_prompt_that_cannot_be_scored_refuses_the_request(stage: Stage) -> None:
    body = {"model": "fake", "echo": True, "logprobs": 1, "max_tokens": 0}
    for prompt, status in (([1, 10**6], 400), ("x" * 200, 400), ("x" * 199, 200)):
        response = await stage.http.post("/v1/completions", json=body | {"prompt": prompt})
        assert response.status_code == status


async def test_sampling_options_reach_the_engine(stage: Stage) -> None:
    body: dict[str, Any] = {"model": "fake", "prompt": "ab", "max_tokens": 4, "temperature": 0}

    async def said(**change: Any) -> str:
        answer = (await stage.http.post("/v1/completions", json=body | change)).json()
        text: str = answer["choices"][0]["text"]
        return text

    assert await said() == "base"
    assert await said(logit_bias={str(ord("q")): 100}) == "qqqq"
    assert await said(stop_token_ids=[ord("s")]) == "ba"
    assert await said(temperature=2.0, top_k=1, seed=2**63 - 1) == "base"
    assert await said(temperature=2.0, min_p=1) == "base"
    assert await said(temperature=2.0, top_k=-1, min_p=1.0, presence_penalty=0, frequency_penalty=0.0) == "base"
    bias = {str(ord("q")): 100, str(ord("r")): 99.5}
    assert set(await said(logit_bias=bias, frequency_penalty=2)) == {"q", "r"}
    assert set(await said(logit_bias=bias, presence_penalty=2)) == {"q", "r"}
    assert set(await said(logit_bias=bias, repetition_penalty=1.5)) == {"q", "r"}
