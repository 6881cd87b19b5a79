"""Copies of requests for a shadow: who answers them, who hears of them, and that clients never wait for one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from zfleet.engine.contract import GenerationRequest
from zfleet.errors import UnknownZ
from zfleet_registry.promotion import Traffic
from zfleet_serve.adaptive import shadow
from zfleet_serve.http.gateway import create_app
from zfleet_serve.telemetry import RequestLog, Telemetry
from zfleet_serve.testing import Stage

ASK = {"model": "fake:math", "messages": [{"role": "user", "content": "sum"}]}


@pytest.fixture
async def logged(stage: Stage, tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Path]]:
    """A service whose expert math/2 has math/1 as its shadow, and its log."""
    stage.registry.alias("math", 1, "old")
    stage.registry.shared["math"] = Traffic(shadow="old")
    file = tmp_path / "requests.jsonl"
    telemetry = Telemetry("fake", RequestLog(str(file), texts=True))
    transport = httpx.ASGITransport(create_app(stage.service, telemetry=telemetry))
    async with httpx.AsyncClient(transport=transport, base_url="http://fake") as http:
        yield http, file
    await stage.service.shadows.close()
    telemetry.close()


async def lines(file: Path, count: int) -> list[dict[str, Any]]:
    for _ in range(200):
        if len(found := file.read_text().splitlines()) >= count:
            return [json.loads(line) for line in found]
        await asyncio.sleep(0.02)
    raise AssertionError(file.read_text())


async def test_a_shadow_answers_a_copy_and_the_client_does_not_see_it(
    logged: tuple[httpx.AsyncClient, Path],
) -> None:
    http, file = logged
    answer = (await http.post("/v1/chat/completions", json=ASK, headers={"x-request-id": "mine"})).json()
    assert answer["choices"][0]["message"]["content"] == "math: sum"
    found = {line["operation"]: line for line in await lines(file, 2)}
    assert (found["chat"]["model"], found["shadow"]["model"]) == ("fake:math/2", "fake:math/1")
    assert found["shadow"]["answers"] == ["old math: sum"]
    assert found["chat"]["request"] == found["shadow"]["request"] == "mine"
    shown = (await http.get("/metrics")).text
    assert 'zfleet:shadow_requests_total{expert="math/1",outcome="stop"} 1.0' in shown
    assert 'expert="fake:math/1"' not in shown, "it is no request of a client"


async def test_versions_mixtures_and_other_experts_have_no_shadow(logged: tuple[httpx.AsyncClient, Path]) -> None:
    http, file = logged
    mixed = {"zfleet": {"mixture": {"math": 1.0}}}
    for body in (ASK | {"model": "fake:math/2"}, ASK | {"model": "fake:sort"}, ASK | {"model": "fake"} | mixed):
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    await asyncio.sleep(0.1)
    assert [line["operation"] for line in await lines(file, 3)] == ["chat"] * 3


async def test_a_shadow_that_fails_or_has_no_room_is_counted_and_disturbs_nobody(
    stage: Stage, logged: tuple[httpx.AsyncClient, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    http, file = logged
    monkeypatch.setattr(shadow, "MOST", 0)
    assert (await http.post("/v1/chat/completions", json=ASK)).status_code == 200
    monkeypatch.setattr(shadow, "MOST", 8)
    generate = stage.engine.generate

    def failing(request: GenerationRequest) -> Any:
        if request.request_id.startswith("shadow-"):
            raise UnknownZ("it was dropped", "put it")
        return generate(request)

    monkeypatch.setattr(stage.engine, "generate", failing)
    assert (await http.post("/v1/chat/completions", json=ASK)).status_code == 200
    assert [line["outcome"] for line in await lines(file, 3)] == ["stop", "stop", "UnknownZ"]
    shown = (await http.get("/metrics")).text
    assert 'outcome="left out"} 1.0' in shown
    assert 'outcome="UnknownZ"} 1.0' in shown


async def test_choices_are_in_order_and_any_error_is_told(
    stage: Stage, logged: tuple[httpx.AsyncClient, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    http, file = logged
    body = {"model": "fake:math", "prompt": ["one", "two"], "n": 2}
    assert (await http.post("/v1/completions", json=body)).status_code == 200
    found = {line["operation"]: line for line in await lines(file, 2)}
    assert found["shadow"]["answers"] == ["old math: one", "old math: one", "old math: two", "old math: two"]

    def broken(_: object) -> Any:
        raise RuntimeError("a defect")

    generate = stage.engine.generate
    monkeypatch.setattr(
        stage.engine, "generate", lambda asked: (broken if "shadow" in asked.request_id else generate)(asked)
    )
    assert (await http.post("/v1/completions", json=body)).status_code == 200
    assert {line["outcome"] for line in await lines(file, 4)} == {"stop", "RuntimeError"}
