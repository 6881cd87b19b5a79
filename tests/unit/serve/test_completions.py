"""Prompts of a completion: texts and token ids, one and several, whole and streamed."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from zfleet.engine.contract import MAX_N
from zfleet.testing.fake_engine import fake_tokens
from zfleet_serve.testing import Stage

MANY = [
    (["abc"], ["sort: abc"]),
    ([97, 98], ["sort: ab"]),
    ([[97, 98]], ["sort: ab"]),
    (["ab", "c", "d"], ["sort: ab", "sort: c", "sort: d"]),
    ([[97, 98], [99]], ["sort: ab", "sort: c"]),
    (["ab", [99]], ["sort: ab", "sort: c"]),
    (["same", "same"], ["sort: same", "sort: same"]),
]


async def ask(stage: Stage, prompt: Any, **options: Any) -> Any:
    return await stage.client.completions.create(
        model="fake:sort", prompt=prompt, temperature=0, max_tokens=50, **options
    )


@pytest.mark.parametrize(("prompt", "texts"), MANY)
@pytest.mark.parametrize("n", [1, 2])
async def test_every_prompt_is_answered_by_its_index(stage: Stage, prompt: Any, texts: list[str], n: int) -> None:
    answer = await ask(stage, prompt, n=n)
    expected = [text for text in texts for _ in range(n)]
    assert [choice.index for choice in answer.choices] == list(range(len(expected)))
    assert [choice.text for choice in answer.choices] == expected
    asked = sum(len(text.removeprefix("sort: ")) for text in texts)
    assert answer.usage.prompt_tokens == asked
    assert answer.usage.completion_tokens == sum(len(text) + 1 for text in expected)


@pytest.mark.parametrize(("prompt", "texts"), MANY)
@pytest.mark.parametrize("n", [1, 2])
async def test_a_stream_gives_the_same(stage: Stage, prompt: Any, texts: list[str], n: int) -> None:
    said = [""] * (len(texts) * n)
    reasons: dict[int, str] = {}
    usage = None
    async for chunk in await ask(stage, prompt, n=n, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said[choice.index] += choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert said == [text for text in texts for _ in range(n)]
    assert reasons == dict.fromkeys(range(len(said)), "stop")
    whole = (await ask(stage, prompt, n=n)).usage
    assert usage == whole


@pytest.mark.parametrize("logprobs", [False, True, 21, -1])
async def test_logprobs_are_a_number(stage: Stage, logprobs: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        await ask(stage, "ab", logprobs=logprobs)


async def test_each_prompt_has_its_logprobs(stage: Stage) -> None:
    answer = await ask(stage, ["ab", "c"], logprobs=0)
    for choice in answer.choices:
        assert "".join(choice.logprobs.tokens) == choice.text
        # The end of the answer has a log-probability, too, and no text.
        assert choice.logprobs.text_offset == [*range(len(choice.text)), len(choice.text)]


@pytest.mark.parametrize(
    "prompt",
    [
        [True, False],
        [[True]],
        [1.5],
        [-1],
        [],
        [[]],
        ["a", 1],
        [["a"]],
        [[[1]]],
        5,
        True,
        {"a": 1},
    ],
)
async def test_what_is_no_prompt_is_refused_in_plain_words(stage: Stage, prompt: Any) -> None:
    response = await stage.http.post("/v1/completions", json={"model": "fake", "prompt": prompt})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "prompt"
    assert error["message"].startswith("prompt: ")
    for inside in ("function-", "tuple", "constrained", "Input should", "Value error", "union"):
        assert inside not in error["message"]


async def test_a_request_asks_for_so_many_answers(stage: Stage) -> None:
    body = {"model": "fake", "prompt": ["a"] * MAX_N, "max_tokens": 1}
    assert len((await stage.http.post("/v1/completions", json=body)).json()["choices"]) == MAX_N
    response = await stage.http.post("/v1/completions", json=body | {"n": 2})
    assert response.status_code == 400
    assert f"ask for {2 * MAX_N} answers" in response.json()["error"]["message"]


async def test_one_bad_prompt_refuses_the_request(stage: Stage) -> None:
    body = {"model": "fake", "prompt": ["ok", "x" * 500]}
    for stream in (False, True):
        response = await stage.http.post("/v1/completions", json=body | {"stream": stream})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
    assert (await stage.engine.stats()).running == 0


async def test_auto_looks_at_one_text(stage: Stage) -> None:
    one: Any = await stage.client.completions.create(model="fake:auto", prompt=["math 1"], temperature=0)
    assert one.choices[0].text == "math: math 1"
    for prompt in (["math 1", "sort 2"], [list(fake_tokens("math 1"))]):
        response = await stage.http.post("/v1/completions", json={"model": "fake:auto", "prompt": prompt})
        assert response.status_code == 400
        assert "one prompt a request" in response.json()["error"]["message"]
