"""The HTTP application, asked by the unchanged OpenAI client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from zfleet.testing.fake_engine import fake_z
from zfleet_registry import Parent
from zfleet_serve.testing import SLUG, Stage, always_asked


async def chat(stage: Stage, model: str, prompt: str = "hello there", **options: Any) -> ChatCompletion:
    answer: ChatCompletion = await stage.client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], temperature=0, **options
    )
    return answer


def text(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def zfleet(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.model_extra["zfleet"]
    return found


async def test_models_lists_what_answers(stage: Stage) -> None:
    names = [model.id async for model in stage.client.models.list()]
    assert names == ["fake", "fake:auto", "fake:both", "fake:kind", "fake:math", "fake:sort"]


async def test_the_base_answers(stage: Stage) -> None:
    answer = await chat(stage, "fake")
    assert text(answer) == "base: hello there"
    assert answer.choices[0].finish_reason == "stop"
    said = zfleet(answer)
    assert said.pop("second_pass_ms") > 0
    assert said == {"model": "fake", "mixture": [], "dispatch": None, "z": "base", "first_pass_ms": None}


@pytest.mark.parametrize(
    ("model", "said", "version"),
    [
        ("fake:math", "math", 2),
        ("fake:math/1", "old math", 1),
        ("fake:math/2", "math", 2),
        ("fake:math@champion", "math", 2),
    ],
)
async def test_an_expert_answers(stage: Stage, model: str, said: str, version: int) -> None:
    answer = await chat(stage, model)
    assert text(answer) == f"{said}: hello there"
    assert zfleet(answer)["model"] == f"fake:math/{version}"
    assert zfleet(answer)["mixture"] == [{"expert": "math", "version": version, "alpha": 1.0}]
    assert len(zfleet(answer)["z"]) == 64


async def test_a_mixture_tells_its_experts(stage: Stage) -> None:
    answer = await chat(stage, "fake:both")
    assert text(answer) == "both: hello there"
    assert zfleet(answer)["mixture"] == [
        {"expert": "math", "version": 2, "alpha": 0.75},
        {"expert": "sort", "version": 1, "alpha": [0.5, 0.25]},
    ]


async def test_a_mixture_by_kind_of_matrix_tells_its_alphas(stage: Stage) -> None:
    math = stage.registry.resolve("math", SLUG)
    parents = (Parent(math.reference, math.z_digest, {"up_proj": 1.0}),)
    stage.registry.add("kinds", stage.registry.load(math), parents=parents)
    answer = await chat(stage, "fake:kinds")
    assert zfleet(answer)["mixture"] == [{"expert": "math", "version": 2, "alpha": {"up_proj": 1.0}}]


@pytest.mark.parametrize(
    ("prompt", "answer", "model", "label", "reason"),
    [
        (
            "math 1 2",
            "math: math 1 2",
            "fake:math/2",
            "math",
            "the classifier dispatcher says 'math' with",
        ),
        ("plus 1 2", "math: plus 1 2", "fake:math/2", "plus", "the classifier dispatcher says 'plus'"),
        ("rain now", "base: rain now", "fake", None, "because the answer to its question is none of the labels: base"),
        ("kind it", "base: kind it", "fake", None, "because the answer to its question is none of the labels: base"),
        ("lost it", "base: lost it", "fake", "lost", "there is no expert 'gone': base"),
    ],
)
async def test_auto_says_who_answered_and_why(
    stage: Stage, prompt: str, answer: str, model: str, label: str | None, reason: str
) -> None:
    response = await chat(stage, "fake:auto", prompt)
    assert text(response) == answer
    said = zfleet(response)
    assert said["model"] == model
    assert said["dispatch"]["method"] == "classifier"
    assert said["dispatch"]["label"] == label
    assert said["dispatch"]["confidence"] == pytest.approx(0.0 if label is None else 1.0)
    assert set(said["dispatch"]["probabilities"]) == {"both", "lost", "math", "plus", "sort"}
    assert said["dispatch"]["prompt_tokens"] == len(f"kind? {prompt}") + len("bothlostmathplussort")
    assert reason in said["dispatch"]["reason"]
    assert said["first_pass_ms"] > 0
    assert said["second_pass_ms"] > 0


async def test_completions(stage: Stage) -> None:
    answer = await stage.client.completions.create(model="fake:sort", prompt="ba", temperature=0)
    assert answer.choices[0].text == "sort: ba"
    assert zfleet(answer)["mixture"] == [{"expert": "sort", "version": 1, "alpha": 1.0}]
    tokens = await stage.client.completions.create(model="fake:sort", prompt=[98, 97], temperature=0)
    assert tokens.choices[0].text == "sort: ba"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 9, 11)


async def test_auto_completions_look_at_text(stage: Stage) -> None:
    answer = await stage.client.completions.create(model="fake:auto", prompt="math 1", temperature=0)
    assert answer.choices[0].text == "math: math 1"
    response = await stage.http.post("/v1/completions", json={"model": "fake:auto", "prompt": [98, 97]})
    assert response.status_code == 400


async def test_sampling_options_reach_the_engine(stage: Stage) -> None:
    answer = await chat(stage, "fake", max_tokens=3)
    assert (text(answer), answer.choices[0].finish_reason) == ("bas", "length")
    answer = await chat(stage, "fake", max_completion_tokens=3)
    assert text(answer) == "bas"
    answer = await chat(stage, "fake", stop=[" th", "zz"])
    assert (text(answer), answer.choices[0].finish_reason) == ("base: hello", "stop")
    answer = await chat(stage, "fake", stop=":", n=3, seed=4, top_p=0.9, user="someone")
    assert [choice.message.content for choice in answer.choices] == ["base"] * 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


async def test_logprobs_name_their_tokens(stage: Stage) -> None:
    answer = await chat(stage, "fake", max_tokens=4, logprobs=True)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(entry.token for entry in logprobs.content or ()) == "base"
    assert all(entry.logprob <= 0 for entry in logprobs.content or ())
    plain = await stage.client.completions.create(model="fake", prompt="a", max_tokens=4, logprobs=0, temperature=0)
    found = plain.choices[0].logprobs
    assert found is not None
    assert found.tokens == list("base")
    assert len(found.token_logprobs or ()) == 4


async def test_a_conversation_may_have_parts_and_roles(stage: Stage) -> None:
    answer = await stage.client.chat.completions.create(
        model="fake:auto",
        temperature=0,
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "math "}, {"type": "text", "text": "1 2"}]},
        ],
    )
    assert text(answer) == "math: math 1 2"


async def test_a_crowd_gets_its_own_answers_and_loads_each_expert_once(stage: Stage) -> None:
    models = {"fake": "base", "fake:math": "math", "fake:math/1": "old math", "fake:sort": "sort", "fake:both": "both"}
    asked = [(model, f"p{i}") for i in range(10) for model in models]
    answers = await asyncio.gather(*(chat(stage, model, prompt) for model, prompt in asked))
    assert [text(answer) for answer in answers] == [f"{models[model]}: {prompt}" for model, prompt in asked]
    loads = [call for call in stage.registry.calls if call.startswith("load")]
    assert sorted(loads) == ["load both/1", "load math/1", "load math/2", "load sort/1"]


async def test_a_promotion_takes_effect_without_a_restart(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert zfleet(await chat(stage, "fake:sort"))["mixture"][0]["version"] == 1
    stage.registry.add("sort", fake_z(9))
    always_asked(monkeypatch)
    answer = await chat(stage, "fake:sort")
    assert zfleet(answer)["mixture"][0]["version"] == 2
    assert text(answer) == "old math: hello there"


async def test_health(stage: Stage) -> None:
    response = await stage.http.get("/healthz")
    assert response.status_code == 200
    assert response.json()["base"] == "fake"
    assert response.json()["engine"]["table_rows"] == 8
    assert response.json()["dispatchers"] == []
