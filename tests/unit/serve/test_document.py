"""The OpenAPI document says what the endpoints take and answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openai.types.chat import ChatCompletionMessage

from zfleet.engine.contract import MAX_N
from zfleet.errors import ZfleetError
from zfleet_serve.http.errors import describe
from zfleet_serve.testing import Stage

_ANY = {200, 400, 401, 403, 429, 500, 503}
_ANSWER = _ANY | {404, 408, 413, 504}
ENDPOINTS = {
    ("get", "/healthz"): _ANY,
    ("get", "/metrics"): _ANY,
    ("get", "/v1/models"): _ANY,
    ("get", "/v1/models/{model}"): _ANY | {404},
    ("get", "/v1/zfleet/usage"): _ANY,
    ("get", "/tokenizer_info"): _ANY,
    ("post", "/v1/chat/completions"): _ANSWER,
    ("post", "/v1/completions"): _ANSWER,
    ("post", "/v1/zfleet/adapt"): _ANSWER,
    ("post", "/tokenize"): _ANSWER,
    ("post", "/detokenize"): _ANSWER,
}


REQUESTS = ("ChatRequest", "CompletionRequest")


@pytest.fixture
async def document(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = (await stage.http.get("/openapi.json")).json()
    return found


def test_every_endpoint_and_status(document: dict[str, Any]) -> None:
    found = {
        (method, path): {int(status) for status in operation["responses"]}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert found == ENDPOINTS


def kinds(of: type[ZfleetError] = ZfleetError) -> Iterator[type[ZfleetError]]:
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


OURS = [kind for kind in dict.fromkeys(kinds()) if kind.__module__.startswith("zfleet")]
"""Without those of tests that run in the same process."""


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_that_is_documented(kind: type[ZfleetError]) -> None:
    status, _ = describe(kind("it failed", "do something"))
    assert status in ENDPOINTS["post", "/v1/chat/completions"]


def test_limits_of_numbers_are_there(document: dict[str, Any]) -> None:
    chat, completion = (document["components"]["schemas"][name]["properties"] for name in REQUESTS)
    for properties in (chat, completion):
        assert (properties["n"]["minimum"], properties["n"]["maximum"]) == (1, MAX_N)
    assert {"type": "integer", "minimum": 1} in chat["max_tokens"]["anyOf"]
    assert completion["max_tokens"]["minimum"] == 0


def schema(document: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator(document | {"$ref": f"#/components/schemas/{name}"})


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from ([node["$ref"]] if "$ref" in node else [])
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from references(child)

    found = set(references(document))
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2]]])
def test_bodies_that_are_answered_fit_the_document(document: dict[str, Any], prompt: object) -> None:
    schema(document, "CompletionRequest").validate({"model": "fake", "prompt": prompt})
    schema(document, "ChatRequest").validate({"model": "fake", "messages": [{"role": "user", "content": "a"}]})
    given = ChatCompletionMessage(role="assistant", content="a").model_dump(exclude_none=True)
    schema(document, "ChatRequest").validate({"model": "fake", "messages": [given]})


async def test_errors_fit_the_document(stage: Stage, document: dict[str, Any]) -> None:
    answers = [
        await stage.http.get("/v1/models/nobody"),
        await stage.http.post("/v1/completions", json={"model": "fake"}),
        await stage.http.post("/v1/completions", json={"model": "fake:nobody", "prompt": "a"}),
        await stage.http.get("/nowhere"),
    ]
    assert [answer.status_code for answer in answers] == [404, 400, 404, 404]
    for answer in answers:
        schema(document, "ErrorBody").validate(answer.json())
