"""Bodies: what is too large is refused before it is read, and what is read makes nobody else wait."""

from __future__ import annotations

import asyncio
import codecs
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from zfleet.errors import RequestTooLong
from zfleet.models.base import Base
from zfleet_serve.http.bodies import body_limit
from zfleet_serve.http.gateway import create_app
from zfleet_serve.http.schemas import ChatRequest
from zfleet_serve.http.tokenizer_text import TokenizerText
from zfleet_serve.testing import Stage

LIMIT = 1000
JSON = {"content-type": "application/json"}


@pytest.fixture
async def small(stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    """A service that reads little."""
    stage.service.served = replace(stage.service.served, max_body=LIMIT)
    transport = httpx.ASGITransport(create_app(stage.service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://fake") as http:
        yield http


def body(size: int) -> bytes:
    """A request of that many bytes."""
    empty = json.dumps({"model": "fake", "prompt": "a", "max_tokens": 1, "user": ""}).encode()
    return empty.replace(b'""', b'"' + b"x" * (size - len(empty)) + b'"')


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("content", [body(LIMIT + 1), b"{" * (LIMIT + 1)])
async def test_what_is_too_large_is_413_in_openais_form(small: httpx.AsyncClient, path: str, content: bytes) -> None:
    response = await small.post(path, content=content, headers=JSON)
    assert response.status_code == 413
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "request_too_large")
    assert str(LIMIT) in error["message"]
    assert "max_body_mib" in error["message"]


async def test_what_just_fits_is_answered(small: httpx.AsyncClient) -> None:
    assert (await small.post("/v1/completions", content=body(LIMIT), headers=JSON)).status_code == 200

    async def pieces() -> AsyncIterator[bytes]:
        yield body(LIMIT)[:10]
        yield body(LIMIT)[10:]

    assert (await small.post("/v1/completions", content=pieces(), headers=JSON)).status_code == 200


async def test_a_length_that_is_told_is_enough(small: httpx.AsyncClient) -> None:
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield body(100)

    told = JSON | {"content-length": str(100 * 2**20)}
    response = await small.post("/v1/completions", content=pieces(), headers=told)
    assert (response.status_code, read) == (413, 0)


async def test_a_body_without_a_length_is_left_when_it_is_too_long(small: httpx.AsyncClient) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 100
            yield b"x" * 100

    response = await asyncio.wait_for(small.post("/v1/completions", content=endless(), headers=JSON), 60)
    assert response.status_code == 413
    assert read <= LIMIT + 200


@pytest.mark.parametrize("sent", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
async def test_what_does_not_call_itself_json_is_400(stage: Stage, sent: str) -> None:
    response = await stage.http.post("/v1/completions", content=body(200), headers={"content-type": sent})
    assert response.status_code == 400
    assert "application/json" in response.json()["error"]["message"]


@pytest.mark.parametrize("sent", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_by_any_of_its_names(stage: Stage, sent: str) -> None:
    response = await stage.http.post("/v1/completions", content=body(200), headers={"content-type": sent})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        rb'{"model": "fake", "prompt": "\ud800"}',
        rb'{"model": "fake\udfff", "prompt": "a"}',
        rb'{"\ud800": 1}',
        b'{"model": "fake", "prompt": "\xff"}',
        '{"model": "fake", "prompt": "a"}'.encode("utf-16"),
        b"[" * 5000,
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"",
        b"null",
        b"[]",
    ],
)
async def test_odd_bytes_are_400(stage: Stage, content: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        response = await stage.http.post(path, content=content, headers=JSON)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_byte_order_mark_is_no_part_of_the_json(stage: Stage) -> None:
    content = codecs.BOM_UTF8 + body(200)
    assert (await stage.http.post("/v1/completions", content=content, headers=JSON)).status_code == 200


async def test_a_length_of_thousands_of_digits_is_413(stage: Stage) -> None:
    told = JSON | {"content-length": "9" * 5000}
    assert (await stage.http.post("/v1/completions", content=body(200), headers=told)).status_code == 413


async def test_a_client_that_leaves_before_its_body_is_there_is_no_defect(stage: Stage) -> None:
    """What leaves the application as an exception, the server writes to its log with a traceback."""
    events: list[dict[str, Any]] = [
        {"type": "http.request", "body": body(200)[:50], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return events.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "http_version": "1.1"}
    headers = [(b"content-type", b"application/json")]
    await create_app(stage.service)(scope | {"headers": headers}, receive, send)
    assert sent[0]["status"] == 400


def test_turns_without_content_are_not_short() -> None:
    """Their template is rendered all the same: not in the thread of what takes milliseconds."""
    few, many = (
        ChatRequest.model_validate({"model": "fake", "messages": [{"role": "assistant"}] * turns})
        for turns in (10, 10_000)
    )
    assert few.characters < 1000 < 100_000 < many.characters


@pytest.mark.parametrize("content", ["\ud800", "a\udfff"])
async def test_half_a_character_is_400(stage: Stage, content: str) -> None:
    chat: Any = {"model": "fake", "messages": [{"role": "user", "content": content}]}
    response = await stage.http.post("/v1/chat/completions", content=json.dumps(chat), headers=JSON)
    assert response.status_code == 400
    assert "no JSON" in response.json()["error"]["message"]


async def test_a_long_prompt_makes_nobody_wait(stage: Stage) -> None:
    """Others are answered while it is turned into tokens."""
    reading, go_on = threading.Event(), threading.Event()
    whole = stage.service.text.tokens

    def read(text: str, special: bool = True) -> tuple[int, ...]:
        if len(text) > 1000:
            reading.set()
            assert go_on.wait(60)
        return whole(text, special)

    stage.service.text.tokens = read  # type: ignore[method-assign]
    asked = {"model": "fake", "prompt": "a", "max_tokens": 1}
    long = asyncio.create_task(stage.http.post("/v1/completions", json=asked | {"prompt": "a" * 20_000}))
    try:
        while not reading.is_set():
            await asyncio.sleep(0.001)
        assert (await stage.http.post("/v1/completions", json=asked)).status_code == 200
        assert (await stage.http.post("/v1/completions", json=asked | {"prompt": [97]})).status_code == 200
        assert (await stage.http.get("/v1/models")).status_code == 200
        assert not long.done()
    finally:
        go_on.set()
    assert (await long).status_code == 400


def test_a_text_that_cannot_fit_is_not_read(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TokenizerText(tiny_base.tokenizer, 20)
    longest = max(map(len, tiny_base.tokenizer.get_vocab()))
    assert len(text.tokens("a" * 19)) == 20
    turns = [{"role": "user", "content": "a"}] * (20 * longest + 1)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr("zfleet_serve.http.tokenizer_text.text_tokens", never)
    monkeypatch.setattr("zfleet_serve.http.tokenizer_text.chat_tokens", never)
    with pytest.raises(RequestTooLong, match="20 tokens"):
        text.tokens("a" * (20 * longest + 1))
    with pytest.raises(RequestTooLong, match="20 tokens"):
        text.chat(turns)


def test_the_limit_follows_the_context() -> None:
    assert body_limit(None, 256) < 10**6, "a megabyte is no use to the lab base"
    assert body_limit(None, 131_072) > 131_072 * 24, "a full context of escaped characters fits"
    assert body_limit(2, 256) == 2 * 2**20
