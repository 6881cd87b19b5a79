"""What operators see: counts that agree with the clients', traces of both passes, and a line for each request."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from zfleet.errors import ServeError
from zfleet_serve.http.gateway import create_app
from zfleet_serve.telemetry import RequestLog, Telemetry
from zfleet_serve.testing import Stage

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def values(http: httpx.AsyncClient) -> dict[tuple[str, str], float]:
    """Return {(metric, its labels but the base's, joined): value}."""
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = [value for name, value in sample.labels.items() if name != "model_name"]
            found[sample.name, " ".join(labels)] = sample.value
    return found


def chat(model: str, text: str, **options: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **options}


async def test_metrics_agree_with_what_clients_counted(stage: Stage) -> None:
    answers = await asyncio.gather(
        *(stage.http.post("/v1/chat/completions", json=chat("fake:math", f"sum {n}")) for n in range(5)),
        *(stage.http.post("/v1/chat/completions", json=chat("fake", f"sum {n}", n=2)) for n in range(3)),
        *(stage.http.post("/v1/chat/completions", json=chat("fake:auto", f"math {n}")) for n in range(4)),
    )
    usages = [answer.json()["usage"] for answer in answers]
    await stage.http.post("/v1/chat/completions", json=chat("fake:nobody", "x"))
    await stage.http.post("/v1/chat/completions", json={"model": "fake"})
    await stage.http.get("/v1/nothing/such")
    found = await values(stage.http)
    assert found["vllm:prompt_tokens_total", ""] == sum(usage["prompt_tokens"] for usage in usages)
    assert found["vllm:generation_tokens_total", ""] == sum(usage["completion_tokens"] for usage in usages)
    assert found["vllm:request_success_total", "stop"] == 5 + 3 * 2 + 4
    assert found["zfleet:requests_total", "fake:math/2 stop"] == 9
    assert found["zfleet:requests_total", "fake stop"] == 3
    assert found["zfleet:requests_total", "none ModelNotFound"] == 1
    assert found["vllm:time_to_first_token_seconds_count", ""] == 12
    assert found["vllm:e2e_request_latency_seconds_count", ""] == 13
    assert found["zfleet:pass_seconds_count", "first"] == 4
    assert found["zfleet:dispatched_total", "classifier math"] == 4
    assert found["zfleet:http_responses_total", "/v1/chat/completions 200"] == 12
    assert found["zfleet:http_responses_total", "/v1/chat/completions 404"] == 1
    assert found["zfleet:http_responses_total", "/v1/chat/completions 400"] == 1
    assert found["zfleet:http_responses_total", "none 404"] == 1, "strangers make no series"
    assert found["vllm:num_requests_running", ""] == 0


async def test_experts_that_answer_now_are_named(stage: Stage) -> None:
    body = chat("fake:math", "say much", stream=True, max_tokens=5)
    async with stage.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = [line async for line in stream.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    text = (await stage.http.get("/metrics")).text
    assert 'running_lora_adapters=""' in text
    found = await values(stage.http)
    assert found["vllm:inter_token_latency_seconds_count", ""] == 4


@pytest.fixture
async def traced(stage: Stage, tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, InMemorySpanExporter, Path]]:
    exporter, file = InMemorySpanExporter(), tmp_path / "requests.jsonl"
    telemetry = Telemetry("fake", RequestLog(str(file)), exporter)
    transport = httpx.ASGITransport(create_app(stage.service, telemetry=telemetry), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://fake") as http:
        yield http, exporter, file
    telemetry.close()


async def test_both_passes_are_spans_in_the_clients_trace(
    traced: tuple[httpx.AsyncClient, InMemorySpanExporter, Path],
) -> None:
    http, exporter, file = traced
    asked = await http.post(
        "/v1/chat/completions", json=chat("fake:auto", "math zebra"), headers={"traceparent": PARENT}
    )
    usage = asked.json()["usage"]
    spans: dict[str, Any] = {}
    for _ in range(200):
        spans = {span.name: span for span in exporter.get_finished_spans()}
        if len(spans) == 3:
            break
        await asyncio.sleep(0.05)
    whole = spans["chat fake"]
    assert {span.parent.span_id for name, span in spans.items() if name != "chat fake"} == {whole.context.span_id}
    assert f"{whole.context.trace_id:032x}" in PARENT
    assert whole.attributes["gen_ai.operation.name"] == "chat"
    assert whole.attributes["gen_ai.response.model"] == "fake:math/2"
    assert whole.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert spans["first pass"].attributes["zfleet.label"] == "math"
    assert whole.start_time <= spans["first pass"].end_time <= spans["second pass"].end_time <= whole.end_time
    shown = str([dict(span.attributes) for span in spans.values()]) + file.read_text()
    assert "zebra" not in shown, "no text is in traces or lines"


async def test_every_request_has_a_line(traced: tuple[httpx.AsyncClient, InMemorySpanExporter, Path]) -> None:
    http, _, file = traced
    await http.post("/v1/chat/completions", json=chat("fake:math", "sum"))
    await http.post("/v1/chat/completions", json=chat("fake:nobody", "sum"))
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["model"], first["outcome"], first["operation"]) == ("fake:math/2", "stop", "chat")
    assert first["completion_tokens"] > 0
    assert 0 < first["first_token_ms"] <= first["whole_ms"]
    assert (second["model"], second["outcome"]) == (None, "ModelNotFound")


async def test_texts_are_logged_only_if_asked(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    telemetry = Telemetry("fake", RequestLog(str(file), texts=True))
    transport = httpx.ASGITransport(create_app(stage.service, telemetry=telemetry))
    async with httpx.AsyncClient(transport=transport, base_url="http://fake") as http:
        await http.post("/v1/chat/completions", json=chat("fake:math", "sum"))
    telemetry.close()
    line = json.loads(file.read_text())
    assert (line["prompt"], line["answers"]) == ("sum", ["math: sum"])


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match=r"request_log is .*cannot be written: No such file"):
        RequestLog(str(tmp_path / "none" / "requests.jsonl"))


GATEWAY = """
import asyncio, sys
from zfleet.engine.contract import EngineStats
from zfleet_serve.telemetry import RequestLog, Telemetry

class Engine:
    async def stats(self):
        return EngineStats(3, 0, 0, 0, 0, 0, 0, 0)

telemetry = Telemetry("fake", RequestLog())
telemetry.metrics.generation_tokens.labels("fake").inc(int(sys.argv[1]))
print(asyncio.run(telemetry.scrape(Engine())).decode())
"""


def test_any_gateway_answers_for_all_also_for_one_that_died(tmp_path: Path) -> None:
    folder = tmp_path / "counts"
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    for tokens in ("5", "7"):
        done = subprocess.run(
            [sys.executable, "-c", GATEWAY, tokens], env=environment, capture_output=True, text=True, check=True
        )
    assert 'vllm:generation_tokens_total{model_name="fake"} 12.0' in done.stdout
    assert 'vllm:num_requests_running{model_name="fake"} 3.0' in done.stdout, "the engines' own counts are not summed"
    assert folder.stat().st_mode & 0o077 == 0, "nobody else reads or writes there"
