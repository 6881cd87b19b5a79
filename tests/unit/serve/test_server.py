"""The HTTP server on a socket, with clients that are slow, rude, or gone."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from zfleet.errors import EngineError, ServeError
from zfleet.testing.fake_engine import FakeEngine
from zfleet_cluster.testing import local_fleet
from zfleet_serve.http import bodies, gateway, protocol, server
from zfleet_serve.http.gateway import create_app
from zfleet_serve.http.server import HttpServer, listening_socket
from zfleet_serve.testing import Stage

HOST = "127.0.0.1"
ASK = {"model": "fake", "prompt": "hello", "temperature": 0}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def listening(stage: Stage) -> AsyncIterator[tuple[HttpServer, int]]:
    port = free_port()
    http = HttpServer(create_app(stage.service), HOST, port)
    await http.start()
    try:
        yield http, port
    finally:
        async with asyncio.timeout(10):
            await http.stop(stage.engine.close)


async def talk(port: int, data: bytes) -> bytes:
    """Send raw bytes, and read until the server closes the connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(data)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


async def until_idle(engine: FakeEngine) -> None:
    async with asyncio.timeout(10):
        while (stats := await engine.stats()).running or stats.waiting:
            await asyncio.sleep(0.01)


def slow(stage: Stage) -> None:
    stage.engine._step_seconds = 0.05


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 3000,
        b"GET /healthz HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % number for number in range(1000)),
        b"GET /" + b"x" * 3000,
    ],
    ids=["value", "many", "url"],
)
async def test_a_head_without_an_end_is_refused(stage: Stage, head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LARGEST_HEAD", 1000)
    async with listening(stage) as (_, port):
        answer = await talk(port, head)
        assert answer.startswith(b"HTTP/1.1 400")
        # A large body is not a large head.
        async with httpx.AsyncClient() as client:
            body = json.dumps({**ASK, "prompt": "h" * 100, "user": "u" * 5000})
            url, kind = f"http://{HOST}:{port}/v1/completions", {"content-type": "application/json"}
            assert (await client.post(url, content=body, headers=kind)).status_code == 200


async def test_clients_that_send_slowly_are_left(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(bodies, "_BODY_SECONDS", 0.2)
    async with listening(stage) as (_, port):
        assert await talk(port, b"") == b""
        assert await talk(port, b"GET /healthz HT") == b""
        # A second request on a connection, too.
        answer = await talk(port, b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\nGET /v1")
        assert answer.startswith(b"HTTP/1.1 404")
        head = b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        answer = await talk(port, head + b"{")
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"the body did not arrive within 0.2 s" in answer


async def test_requests_in_one_piece_are_answered_in_order(stage: Stage) -> None:
    async with listening(stage) as (_, port):
        asked = b"GET /v1/models/fake HTTP/1.1\r\n\r\n" * 3 + b"HEAD /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n"
        answer = await talk(port, asked)
        assert answer.count(b"HTTP/1.1 200") == 3
        assert answer.count(b"HTTP/1.1 405") == 1
        assert answer.endswith(b"\r\n\r\n"), "an answer to HEAD has no body"
        assert b"server:" not in answer.lower()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_engine_stops_for_a_client_that_leaves(stage: Stage, stream: bool) -> None:
    slow(stage)
    async with listening(stage) as (_, port), httpx.AsyncClient() as client:
        body = {**ASK, "model": "fake", "prompt": "h" * 100, "max_tokens": 90, "stream": stream}
        asked = asyncio.create_task(client.post(f"http://{HOST}:{port}/v1/completions", json=body))
        async with asyncio.timeout(10):
            while not (await stage.engine.stats()).running:
                await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        before = (await stage.engine.stats()).generated_tokens
        await until_idle(stage.engine)
        assert (await stage.engine.stats()).generated_tokens - before < 20


async def test_streams_under_way_at_the_end_get_an_error_event(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_END_SECONDS", 0.5)
    slow(stage)
    async with listening(stage) as (http, port), httpx.AsyncClient() as client:
        body = {**ASK, "prompt": "h" * 100, "max_tokens": 90, "stream": True}
        asked = asyncio.create_task(client.post(f"http://{HOST}:{port}/v1/completions", json=body))
        short = {**ASK, "max_tokens": 2}
        async with asyncio.timeout(10):
            while not (await stage.engine.stats()).running:
                await asyncio.sleep(0.01)
            whole = asyncio.create_task(client.post(f"http://{HOST}:{port}/v1/completions", json=short))
            while (await stage.engine.stats()).running < 2:
                await asyncio.sleep(0.01)
            await http.stop(stage.engine.close)
            assert (await whole).status_code == 200
            events = [line for line in (await asked).text.splitlines() if line]
        assert "error" in json.loads(events[-1].removeprefix("data: "))
        with pytest.raises(ServeError, match=f"nothing listens at port {port} any more"):
            http.check()


async def test_health_says_503_at_once_when_no_engine_answers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_HEALTH_SECONDS", 0.1)
    stage.engine.health_error = EngineError("a step hangs in /srv/engine")
    response = await stage.http.get("/healthz")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == "engine_unavailable"
    assert "srv" not in response.text
    # A fleet that has no replica now, and whose requests would wait for one.
    async with local_fleet([]) as (_, client):
        stage.service.engine = client
        async with asyncio.timeout(2):
            assert (await stage.http.get("/healthz")).status_code == 503


async def test_a_number_that_is_no_json_ends_a_stream_in_an_error_event(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stage.engine.generate

    async def broken(request: Any) -> AsyncIterator[Any]:
        async for chunk in whole(request):
            yield replace(chunk, logprobs=(float("nan"),) * len(chunk.logprobs))

    monkeypatch.setattr(stage.engine, "generate", broken)
    response = await stage.http.post("/v1/completions", json={**ASK, "logprobs": 0, "stream": True})
    assert "NaN" not in response.text
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert json.loads(events[-1])["error"]["code"] == "internal_error"
    assert (await stage.http.post("/v1/completions", json={**ASK, "logprobs": 0})).status_code == 500


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
async def test_a_host_that_cannot_be_listened_on_is_named(host: str) -> None:
    with pytest.raises(ServeError, match="port 1234 of"):
        listening_socket(host, 1234)


async def test_gateways_share_a_port_that_nobody_else_gets() -> None:
    first = listening_socket(HOST, free_port())
    port = first.getsockname()[1]
    with first, listening_socket(HOST, port), pytest.raises(ServeError, match=f"port {port} of '127.0.0.1'"):
        listening_socket(HOST, port, shared=False)


async def test_ipv6_is_listened_on() -> None:
    try:
        listening = listening_socket("::1", 0)
    except ServeError:
        pytest.skip("this machine has no IPv6")
    with listening:
        assert listening.family == socket.AF_INET6
