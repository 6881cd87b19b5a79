"""Routes beside the two that generate: tokens, the first pass alone, request ids, and what is refused by name."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from zfleet.testing.fake_engine import fake_tokens
from zfleet.testing.tokenizers import byte_fallback
from zfleet_serve.http.request_ids import HEADER
from zfleet_serve.http.tokenizer_text import TokenizerText
from zfleet_serve.testing import Stage

CHAT: Any = [{"role": "user", "content": "math 1"}]


async def test_a_prompt_becomes_tokens_and_a_text_again(stage: Stage) -> None:
    body = {"model": "fake:math", "prompt": "ab c"}
    answer = (await stage.http.post("/tokenize", json=body)).json()
    assert answer == {"count": 4, "max_model_len": 200, "tokens": list(fake_tokens("ab c")), "token_strs": None}
    answer = (await stage.http.post("/detokenize", json={"tokens": answer["tokens"]})).json()
    assert answer == {"prompt": "ab c"}


async def test_messages_become_tokens(stage: Stage) -> None:
    answer = (await stage.http.post("/tokenize", json={"messages": CHAT, "return_token_strs": True})).json()
    assert (answer["count"], answer["token_strs"]) == (6, list("math 1"))


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/tokenize", {}, "prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": CHAT}, "prompt or messages"),
        ("/tokenize", {"messages": CHAT, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"messages": CHAT, "add_generation_prompt": False}, "add_generation_prompt"),
        ("/tokenize", {"messages": CHAT, "chat_template": "{{ x }}"}, "chat_template"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/v1/zfleet/adapt", {"model": "fake:auto"}, "prompt or messages"),
        ("/v1/zfleet/adapt", {"model": "fake:auto", "prompt": "a", "n": 2}, "'n' is not supported"),
    ],
)
async def test_a_bad_body_is_400_and_says_why(stage: Stage, path: str, body: Any, named: str) -> None:
    response = await stage.http.post(path, json=body)
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]


async def test_a_model_that_is_not_there_has_no_tokens(stage: Stage) -> None:
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [97]})):
        response = await stage.http.post(path, json={"model": "fake:nobody"} | body)
        assert response.status_code == 404


def test_a_real_tokenizer_says_what_it_is() -> None:
    tokenizer = byte_fallback()
    text = TokenizerText(tokenizer, 50)
    ids = text.tokens("a the", special=False)
    assert text.decode(ids) == tokenizer.decode(list(ids))
    assert text.names(ids) == tokenizer.convert_ids_to_tokens(list(ids))
    info = text.info()
    assert (info["tokenizer_class"], info["model_max_length"]) == (type(tokenizer).__name__, 50)
    assert info["eos_token"] == tokenizer.eos_token
    assert "/" not in str({key: value for key, value in info.items() if key != "chat_template"}).replace("</s>", "")


def test_an_unknown_id_has_no_text() -> None:
    with pytest.raises(Exception, match="tokens has 1000000"):
        TokenizerText(byte_fallback(), 50).decode([10**6])


async def test_the_tokenizers_configuration(stage: Stage) -> None:
    assert (await stage.http.get("/tokenizer_info")).json() == {"tokenizer_class": "FakeText"}


@pytest.mark.parametrize("body", [{"messages": CHAT}, {"prompt": "math 1"}])
async def test_the_first_pass_alone_generates_nothing(stage: Stage, body: dict[str, Any]) -> None:
    found = (await stage.http.post("/v1/zfleet/adapt", json={"model": "fake:auto"} | body)).json()
    assert found["mixture"] == [{"expert": "math", "version": 2, "alpha": 1.0}]
    assert found["dispatch"]["label"] == "math"
    assert 0.5 < found["dispatch"]["confidence"] <= 1
    assert found["first_pass_ms"] > 0
    answer: Any = await stage.client.chat.completions.create(model="fake:auto", messages=CHAT)
    assert answer.zfleet["z"] == found["z"]
    assert answer.zfleet["dispatch"]["probabilities"] == found["dispatch"]["probabilities"]


async def test_the_first_pass_of_an_expert_and_of_a_mixture(stage: Stage) -> None:
    body: dict[str, Any] = {"prompt": "x"}
    found = (await stage.http.post("/v1/zfleet/adapt", json=body | {"model": "fake:sort"})).json()
    assert (found["model"], found["dispatch"]) == ("fake:sort/1", None)
    mixture = {"model": "fake", "zfleet": {"mixture": {"math": 0.5, "sort": 0.5}}}
    found = (await stage.http.post("/v1/zfleet/adapt", json=body | mixture)).json()
    assert found["model"] == "fake:math/2+sort/1"
    assert (await stage.engine.stats()).generated_tokens == 0
    assert (await stage.http.post("/v1/zfleet/adapt", json=body | {"model": "no"})).status_code == 404


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/v1/embeddings", "embeddings"),
        ("/v1/images/generations", "text"),
        ("/v1/responses", "/v1/chat/completions"),
        ("/v1/files", "stores nothing"),
        ("/v1/fine_tuning/jobs", "zfleet train"),
        ("/v1/nowhere", "Not Found"),
        ("/v1/embeddingsx", "Not Found"),
    ],
)
async def test_other_routes_are_refused_with_a_reason(stage: Stage, path: str, why: str) -> None:
    response = await stage.http.post(path, json={})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["message"].startswith(f"POST {path}: ")
    assert why in error["message"]
    assert error["code"] == (None if why == "Not Found" else "unsupported_route")


async def test_a_request_keeps_its_id_or_gets_one(stage: Stage) -> None:
    body = {"model": "fake", "prompt": "a"}
    named = await stage.http.post("/v1/completions", json=body, headers={HEADER: "mine/1.b:c"})
    assert named.headers.get_list(HEADER) == ["mine/1.b:c"]
    ids = set()
    for sent in (None, b"x" * 129, b"a b", b"", "a%s\u00e9".encode("latin-1")):
        headers = {} if sent is None else {HEADER.encode(): sent}
        made = (await stage.http.post("/v1/completions", json=body, headers=headers)).headers[HEADER]
        assert re.fullmatch("req-[0-9a-f]{32}", made)
        ids.add(made)
    assert len(ids) == 5


async def test_errors_and_the_log_have_the_requests_id(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = stage.registry.add("broken", stage.registry.zs[stage.registry.versions[0].z_digest])
    for body, status in (({"model": "fake:nobody", "prompt": "a"}, 404), ({"model": "fake"}, 400)):
        response = await stage.http.post("/v1/completions", json=body, headers={HEADER: "first"})
        assert (response.status_code, response.headers[HEADER]) == (status, "first")
    del stage.registry.zs[broken.z_digest]
    with caplog.at_level(logging.ERROR):
        response = await stage.http.post(
            "/v1/completions", json={"model": "fake:broken", "prompt": "a"}, headers={HEADER: "second"}
        )
    assert (response.status_code, response.headers[HEADER]) == (500, "second")
    assert "[second] CorruptArtifact" in caplog.text

    def defect(*_: object) -> None:
        raise KeyError("defect")

    monkeypatch.setattr(stage.registry, "resolve", defect)
    response = await stage.http.post(
        "/v1/completions", json={"model": "fake:math", "prompt": "a"}, headers={HEADER: "third"}
    )
    assert (response.status_code, response.headers.get_list(HEADER)) == (500, ["third"])
