"""Keys over HTTP: who gets in to which route, what responses say, and what is counted."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from limits import RateLimitItemPerMinute
from starlette.routing import Route

from zfleet.errors import KeysError
from zfleet_serve.access import control, keyring
from zfleet_serve.access.control import AccessControl
from zfleet_serve.access.key_store import KeyStore
from zfleet_serve.access.key_text import new_key
from zfleet_serve.http.access import OPEN_PATHS
from zfleet_serve.http.gateway import create_app
from zfleet_serve.telemetry import RequestLog, Telemetry
from zfleet_serve.testing import Stage, fake_stage

ASK = {"model": "fake", "prompt": "hello", "temperature": 0}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}


@dataclass
class Guarded:
    """A service that asks for keys, and the database of its keys."""

    stage: Stage
    access: AccessControl
    store: KeyStore

    def key(self, **settings: Any) -> dict[str, str]:
        """Create a key, and return the header that sends it."""
        _, text = self.store.create("one", settings)
        return {"Authorization": f"Bearer {text.reveal()}"}

    async def ask(self, headers: dict[str, str], **options: Any) -> httpx.Response:
        return await self.stage.http.post("/v1/completions", json=ASK | options, headers=headers)

    async def followed(self) -> None:
        """Wait until a change of the database is live."""
        keys = self.access._keys
        assert keys is not None
        await asyncio.to_thread(keys.keyring.refresh)


@asynccontextmanager
async def guarded_stage(store: KeyStore, place: str, **options: Any) -> AsyncIterator[Guarded]:
    access = AccessControl(place, **options)
    await access.open()
    async with fake_stage(access=access) as stage:
        yield Guarded(stage, access, store)
    await access.close()


@pytest.fixture(autouse=True)
def _wrong_keys_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "WRONG_A_MINUTE", RateLimitItemPerMinute(1000))


@pytest.fixture
async def guarded(store: KeyStore, place: str) -> AsyncIterator[Guarded]:
    async with guarded_stage(store, place) as guarded:
        yield guarded


async def test_every_route_asks_for_a_valid_key_and_for_its_scope(guarded: Guarded) -> None:
    key, text = guarded.store.create("gone", {})
    guarded.store.revoke(key.id)
    elsewhere = guarded.key(routes=["/elsewhere"])
    await guarded.followed()
    expected = {
        401: [
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Bearer {new_key().reveal()}"},
            {"Authorization": f"Bearer {text.reveal()}"},
            {"Authorization": f"Basic {text.reveal()}"},
            {"x-api-key": text.reveal()},
        ],
        403: [elsewhere],
    }
    app = create_app(guarded.stage.service, guarded.access)
    routes = [route for route in app.routes if isinstance(route, Route)]
    walked = 0
    for route in routes:
        path = re.sub(r"\{.*?\}", "fake", route.path)
        for method in route.methods or ():
            for status, headers in expected.items():
                if path in OPEN_PATHS:
                    continue
                for sent in headers:
                    answer = await guarded.stage.http.request(method, path, headers=sent)
                    assert answer.status_code == status, (method, path, sent)
                    walked += 1
    assert walked >= 7 * 6
    refused = await guarded.stage.http.get("/v1/models", headers=elsewhere)
    assert "'v1/models'" in refused.json()["error"]["message"]
    said = {(await guarded.stage.http.get("/v1/models", headers=sent)).text for sent in expected[401][:4]}
    assert len(said) == 1, "a client does not hear what was wrong"


async def test_the_openai_client_raises_its_own_errors(guarded: Guarded) -> None:
    client = guarded.stage.client
    with pytest.raises(openai.AuthenticationError) as refused:
        await client.models.list()
    assert refused.value.code == "invalid_api_key"
    headers = guarded.key(experts=["math"])
    await guarded.followed()
    with pytest.raises(openai.PermissionDeniedError):
        await client.completions.create(model="fake:sort", prompt="a", extra_headers=headers)


async def test_health_is_open_and_says_less_to_strangers(guarded: Guarded) -> None:
    headers = guarded.key()
    await guarded.followed()
    assert (await guarded.stage.http.get("/healthz")).json() == {"status": "ok"}
    assert "engine" in (await guarded.stage.http.get("/healthz", headers=headers)).json()


async def test_a_key_sees_and_names_what_it_may_use(guarded: Guarded) -> None:
    headers = guarded.key(experts=["math"])
    await guarded.followed()
    models = (await guarded.stage.http.get("/v1/models", headers=headers)).json()["data"]
    assert [model["id"] for model in models] == ["fake", "fake:math"]
    for model in ("fake", "fake:math", "fake:math/1", "fake:math@champion"):
        assert (await guarded.ask(headers, model=model)).status_code == 200
    for model in ("fake:sort", "fake:sort/1", "fake:auto", "fake:both", "fake:nobody"):
        answer = await guarded.ask(headers, model=model)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        assert (await guarded.stage.http.get(f"/v1/models/{model}", headers=headers)).status_code == 403
    unknown = await guarded.ask(headers, model="other")
    assert unknown.status_code == 404
    assert "sort" not in unknown.text


async def test_a_key_without_mixtures_gets_no_answer_of_several_experts(guarded: Guarded) -> None:
    headers = guarded.key(mixtures=False)
    await guarded.followed()
    assert (await guarded.ask(headers, model="fake:both")).status_code == 403
    assert (await guarded.ask(headers, model="fake:math")).status_code == 200


async def test_a_key_has_a_default_model(guarded: Guarded) -> None:
    headers, without = guarded.key(default_model="fake:math"), guarded.key()
    await guarded.followed()
    for model in ({}, {"model": None}):
        body = {key: value for key, value in ASK.items() if key != "model"} | model
        answer = await guarded.stage.http.post("/v1/completions", json=body, headers=headers)
        assert answer.json()["zfleet"]["model"] == "fake:math/2"
        assert (await guarded.stage.http.post("/v1/completions", json=body, headers=without)).status_code == 400
    assert (await guarded.ask(headers, model="fake:sort")).json()["zfleet"]["model"] == "fake:sort/1"


async def test_a_lenient_key_is_warned_of_fields_that_are_ignored(guarded: Guarded) -> None:
    lenient, strict = guarded.key(lenient=True, default_model="fake"), guarded.key()
    await guarded.followed()
    more = {"brand_new": 1, "ü\r\nx: y": 2, "stream_options": None}
    answer = await guarded.ask(lenient, **more)
    assert answer.status_code == 200
    assert answer.headers["x-zfleet-warning"] == r"ignored: brand_new, \xfc\r\nx: y"
    assert "x-zfleet-warning" not in (await guarded.ask(lenient)).headers
    assert (await guarded.ask(strict, **more)).status_code == 400
    wrong = await guarded.ask(lenient, brand_new=1, temperature="hot")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "temperature")
    nameless = await guarded.stage.http.post("/v1/completions", json={"prompt": "a", "new": 1}, headers=lenient)
    assert nameless.status_code == 200


@pytest.mark.parametrize(
    "url", ["/v1/models?api_key={}", "/v1/models?key=1", "/v1/models/{}", "/healthz?a={}", "/v1/models?a=%7A{}"]
)
async def test_a_key_in_the_url_is_refused_and_not_logged(
    guarded: Guarded, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "zfleet_serve")
    text = new_key()
    shown = text.reveal()[1:] if "%7A" in url else text.reveal()
    answer = await guarded.stage.http.get(url.format(shown), headers=guarded.key())
    assert answer.status_code == 400
    assert "zfleet keys rotate" in answer.text
    assert text.secret not in answer.text + "".join(
        record.getMessage() for record in caplog.records if record.name.startswith("zfleet")
    )


async def test_requests_a_minute(guarded: Guarded) -> None:
    headers = guarded.key(requests_per_minute=2)
    await guarded.followed()
    answers = [await guarded.ask(headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    refused = answers[-1]
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert (await guarded.ask(guarded.key(), model="fake")).status_code == 401, "not live before the next look"


async def test_tokens_a_minute(guarded: Guarded) -> None:
    headers = guarded.key(tokens_per_minute=50)
    await guarded.followed()
    # 5 tokens of the prompt, up to 16 of the answer.
    answers = [await guarded.ask(headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[0].headers["x-ratelimit-remaining-tokens"]) <= 50 - 5
    assert answers[-1].headers["x-ratelimit-limit-tokens"] == "50"


async def test_a_budget_of_the_month(guarded: Guarded) -> None:
    headers = guarded.key(tokens_per_month=30)
    await guarded.followed()
    answers = [await guarded.ask(headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].json()["error"]["code"] == "insufficient_quota"


async def test_usage_is_that_of_the_key_by_expert(guarded: Guarded) -> None:
    headers, other = guarded.key(), guarded.key()
    await guarded.followed()
    await guarded.ask(headers, model="fake:math", max_tokens=3)
    await guarded.stage.http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 2}, headers=headers)
    stream = await guarded.ask(headers, model="fake:both", stream=True, max_tokens=4)
    assert stream.text.endswith("data: [DONE]\n\n")
    await guarded.ask(headers, prompt=[])  # refused: nothing to count
    used = (await guarded.stage.http.get("/v1/zfleet/usage", headers=headers)).json()["data"]
    counts = {row["expert"]: (row["requests"], row["prompt_tokens"], row["completion_tokens"]) for row in used}
    assert counts == {"math": (1, 5, 3), "": (1, 5, 2), "math+sort": (1, 5, 4)}
    assert (await guarded.stage.http.get("/v1/zfleet/usage", headers=other)).json()["data"] == []
    assert (await guarded.stage.http.get("/v1/zfleet/usage?since=tomorrow", headers=other)).status_code == 400


async def test_the_first_pass_is_counted(guarded: Guarded) -> None:
    headers = guarded.key()
    await guarded.followed()
    await guarded.ask(headers, model="fake:auto", prompt="kind? plus")
    (row,) = (await guarded.stage.http.get("/v1/zfleet/usage", headers=headers)).json()["data"]
    assert row["first_pass_tokens"] > 0


async def test_a_change_is_live_without_a_restart(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loop itself, which looks each second."""
    key, text = guarded.store.create("one", {})
    headers = {"Authorization": f"Bearer {text.reveal()}"}
    await until(lambda: guarded.ask(headers), 200)
    guarded.store.revoke(key.id)
    await until(lambda: guarded.ask(headers), 401)


async def until(ask: Any, status: int) -> None:
    async with asyncio.timeout(20 * control.TURN_SECONDS):
        while (await ask()).status_code != status:
            await asyncio.sleep(0.05)


async def test_without_its_database_a_service_goes_on_with_the_keys_it_knows(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    headers = guarded.key()
    await guarded.followed()
    keys = guarded.access._keys
    assert keys is not None

    def away() -> int:
        raise KeysError("the database is away", "start it")

    monkeypatch.setattr(KeyStore, "change_number", lambda _: away())
    await until_logged(caplog, "known keys stay valid")
    guarded.access.check()
    assert (await guarded.ask(headers)).status_code == 200
    monkeypatch.undo()
    await until_logged(caplog, "can be read again")


async def until_logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    async with asyncio.timeout(20):
        while words not in caplog.text:
            await asyncio.sleep(0.05)


async def test_a_stream_that_takes_too_long_ends_in_an_error_event(store: KeyStore, place: str) -> None:
    async with guarded_stage(store, place, deadline_seconds=0.3) as guarded:
        headers = guarded.key()
        await guarded.followed()
        guarded.stage.engine._step_seconds = 0.05
        long = {"max_tokens": 190, "prompt": "x" * 4, "model": "fake:math"}
        guarded.stage.engine._model = type(guarded.stage.engine._model)(lambda prompt, z: "y" * 150)
        whole = await guarded.ask(headers, **long)
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
        stream = await guarded.ask(headers, **long, stream=True)
        assert stream.status_code == 200
        assert '"code": "deadline_exceeded"' in stream.text.strip().splitlines()[-1]


async def test_a_service_without_keys_asks_for_none(stage: Stage) -> None:
    assert (await stage.http.post("/v1/completions", json=ASK)).status_code == 200
    sent = await stage.http.post("/v1/completions", json=ASK, headers={"Authorization": "Bearer anything"})
    assert sent.status_code == 200
    assert (await stage.http.get("/v1/zfleet/usage")).status_code == 400
    assert (await stage.http.get("/v1/models?api_key=secret")).status_code == 400


async def test_metrics_need_a_key_and_log_lines_name_it_without_its_secret(guarded: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    telemetry = Telemetry("fake", RequestLog(str(file)))
    transport = httpx.ASGITransport(create_app(guarded.stage.service, guarded.access, telemetry))
    key, text = guarded.store.create("one", {"routes": ["/metrics", "/v1/completions"]})
    await guarded.followed()
    headers = {"Authorization": f"Bearer {text.reveal()}", "x-request-id": "mine"}
    async with httpx.AsyncClient(transport=transport, base_url="http://fake") as http:
        assert (await http.get("/metrics")).status_code == 401
        assert (await http.post("/v1/completions", json=ASK, headers=headers)).status_code == 200
        shown = (await http.get("/metrics", headers=headers)).text
    telemetry.close()
    assert 'zfleet:http_responses_total{route="none",status="401"} 1.0' in shown
    line = json.loads(file.read_text())
    assert (line["key"], line["request"], line["outcome"]) == (key.id, "mine", "stop")
    assert text.reveal().partition(".")[2] not in file.read_text() + shown
