"""What is wrong with a request, in OpenAI's form: the status, the option's name, the remedy."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from zfleet.testing.fake_engine import fake_z
from zfleet_serve.testing import Stage

MESSAGES: Any = [{"role": "user", "content": "hi you"}]


@pytest.mark.parametrize("model", ["other", "fake:nobody", "fake:math/9", "fake:math@none", "fake:", "fake:a b"])
async def test_an_unknown_model_is_404_and_says_what_exists(stage: Stage, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await stage.client.chat.completions.create(model=model, messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert caught.value.message.count(f"model {model!r} does not exist: ") == 1
    assert "fake, fake:auto, fake:both" in caught.value.message


async def test_auto_without_its_classifier_is_404(stage: Stage) -> None:
    stage.registry.versions = [version for version in stage.registry.versions if version.name != "kind"]
    with pytest.raises(openai.NotFoundError, match="'kind'"):
        await stage.client.chat.completions.create(model="fake:auto", messages=MESSAGES)
    assert "fake:auto" not in [model.id async for model in stage.client.models.list()]


@pytest.mark.parametrize("body", [{"max_tokens": 1000}, {"messages": [{"role": "user", "content": "x" * 500}]}])
async def test_too_long_is_400(stage: Stage, body: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await stage.client.chat.completions.create(**({"model": "fake", "messages": MESSAGES} | body))
    assert caught.value.code == "context_length_exceeded"
    assert "200" in caught.value.message


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
        ("best_of", 2),
        ("ignore_eos", True),
        ("echo", True),
        ("nonsense", 1),
    ],
)
async def test_an_unsupported_option_is_refused_by_name(stage: Stage, option: str, value: object) -> None:
    body = {"model": "fake", "messages": MESSAGES, option: value}
    response = await stage.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == f"option {option!r} is not supported"
    assert response.json()["error"]["param"] == option
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_options_that_ask_for_nothing_are_fine(stage: Stage) -> None:
    body = {"model": "fake", "messages": MESSAGES, "tools": [], "presence_penalty": 0.0, "seed": None, "echo": False}
    assert (await stage.http.post("/v1/chat/completions", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
        ({"stop": ""}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"model": None}, "model is missing"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": "1"}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5000000": 1}}, "logit_bias"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": list(range(65))}, "stop_token_ids"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
    ],
)
async def test_a_bad_value_is_400_and_named(stage: Stage, change: dict[str, Any], named: str) -> None:
    body = {"model": "fake", "messages": MESSAGES} | change
    response = await stage.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("option", ["n", "seed", "max_tokens", "max_completion_tokens"])
async def test_a_whole_number_may_be_written_with_a_point(stage: Stage, path: str, option: str) -> None:
    """The OpenAPI document says `integer`, which 2.0 is in JSON; clients in Java write it so."""
    if path == "/v1/completions" and option == "max_completion_tokens":
        return
    body: Any = {"model": "fake"} | ({"messages": MESSAGES} if "chat" in path else {"prompt": "hi"})
    assert (await stage.http.post(path, json=body | {option: 2.0})).status_code == 200
    for wrong in (2.5, "2", True, [2]):
        response = await stage.http.post(path, json=body | {option: wrong})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == option


async def test_what_is_no_json_is_400(stage: Stage) -> None:
    headers = {"content-type": "application/json"}
    for content in ("{", "3", ""):
        response = await stage.http.post("/v1/completions", content=content, headers=headers)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


async def test_an_unknown_path_is_404(stage: Stage) -> None:
    response = await stage.http.post("/v1/embeddings", json={})
    assert response.status_code == 404
    assert "/v1/embeddings" in response.json()["error"]["message"]


async def test_an_expert_that_cannot_be_loaded_is_500_and_never_the_base(stage: Stage) -> None:
    broken = stage.registry.add("broken", fake_z(5))
    del stage.registry.zs[broken.z_digest]
    stage.registry.add("foreign", fake_z(6, factors="others"))
    for model, named in (("fake:broken", "damaged"), ("fake:foreign", "factors")):
        with pytest.raises(openai.InternalServerError, match=named):
            await stage.client.chat.completions.create(model=model, messages=MESSAGES)
    prompt: Any = [{"role": "user", "content": "broken it"}]
    with pytest.raises(openai.InternalServerError, match="damaged"):
        await stage.client.chat.completions.create(model="fake:auto", messages=prompt)


async def test_a_defect_is_500_without_its_details(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(stage.registry, "resolve", broken)
    response = await stage.http.post("/v1/chat/completions", json={"model": "fake:math", "messages": MESSAGES})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
