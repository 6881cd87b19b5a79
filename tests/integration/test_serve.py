"""Ray Serve, a real registry and a real engine, asked by the unchanged OpenAI client.

What a gateway answers is in tests/unit/serve, with a scripted engine. Here are real processes, because Serve starts,
finds and ends them, and because gateways and engines reach each other over sockets. Most tests ask one service.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import torch

from zfleet.config.load import dump_spec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import BaseSpec, EngineSpec
from zfleet.errors import ServeError
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, Parent, Provenance

MESSAGES: Any = [{"role": "user", "content": "flip abc"}]

TIMEOUT = 120
"""Seconds; an end to what hangs, on a machine that has other work."""


@dataclass(frozen=True)
class Live:
    """A service under test."""

    spec: ServeSpec
    client: openai.OpenAI
    url: str
    zs: dict[str, ZVector]
    bundle: BaseBundle


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def spec(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeSpec]:
    root = tmp_path_factory.mktemp("serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZFLEET_CACHE", str(root / "cache"))
        ExpertRegistry(root=root / "registry")
        yield ServeSpec(
            base=BaseSpec(model=str(tiny_folder)),
            registry=f"sqlite:///{root}/registry/mlflow.db",
            port=free_port(),
            labels={"anything": "math"},
            engine=EngineSpec(slots=8, z_rows=4),
        )


@pytest.fixture(scope="module")
def live(spec: ServeSpec, ray_cluster: None) -> Iterator[Live]:
    from zfleet_serve.run import start_service

    bundle = pack_base(spec.base)
    model = bundle.open()
    registry = ExpertRegistry(spec.registry)
    zs = {}
    for seed, name in enumerate(("kind", "math", "sort")):
        generator = torch.Generator().manual_seed(seed)
        zs[name] = model.z_from_flat(1 + 0.3 * torch.randn(model.layout.size, generator=generator))
        registry.register(name, zs[name], Provenance.of(zs[name]), base_name="tiny")
    zs["both"] = mix([zs["math"], zs["sort"]], [0.75, 0.5])
    parents = (Parent("math/1", zs["math"].digest, 0.75), Parent("sort/1", zs["sort"].digest, 0.5))
    registry.register("both", zs["both"], Provenance.of(zs["both"], parents=parents, kind="mixture"), base_name="tiny")
    spec = spec.model_copy(update={"replicas": 2, "gateways": 2})
    service = start_service(spec)
    try:
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
        with client:
            yield Live(spec, client, service.url, zs, bundle)
    finally:
        service.stop()


def test_a_service_takes_along_only_what_it_started(
    spec: ServeSpec, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster where Serve and another application are there before: stopped, and failed."""
    from ray import serve

    from zfleet_serve import run
    from zfleet_serve.lifetime import delete_application, serve_runs, shut_down_serve

    class Other:
        async def __call__(self) -> str:
            return "still here"

    spec = spec.model_copy(update={"port": free_port()})
    url, elsewhere = f"http://127.0.0.1:{spec.port}", free_port()
    other = f"http://127.0.0.1:{elsewhere}/other"

    def serves_until_now() -> None:
        assert httpx.get(f"{url}/v1/models", timeout=TIMEOUT).status_code == 200
        raise KeyboardInterrupt

    serve.start(http_options={"host": "127.0.0.1", "port": elsewhere})
    serve.run(serve.deployment(Other).bind(), name="other", route_prefix="/other")  # type: ignore[attr-defined]
    try:
        monkeypatch.setattr(run, "wait_for_interrupt", serves_until_now)
        with pytest.raises(KeyboardInterrupt):
            run.run_serve(spec, address="auto")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/v1/models", timeout=TIMEOUT)
        assert httpx.get(other, timeout=TIMEOUT).text == "still here"

        monkeypatch.setattr(run, "_HEALTHY_SECONDS", 0)
        with pytest.raises(ServeError, match="does not answer"):
            run.start_service(spec.model_copy(update={"port": free_port()}))
        assert serve.status().applications.keys() == {"other"}
        assert httpx.get(other, timeout=TIMEOUT).text == "still here"
    finally:
        delete_application("other")
        shut_down_serve(besides="other")
    assert not serve_runs()


def ask(live: Live, model: str, **options: Any) -> Any:
    return live.client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=8, **options)


def test_models_are_listed(live: Live) -> None:
    names = [model.id for model in live.client.models.list()]
    assert names == ["tiny", "tiny:auto", "tiny:both", "tiny:kind", "tiny:math", "tiny:sort"]


def test_each_model_answers_as_its_merged_self(live: Live) -> None:
    """The service's greedy answer equals the one computed here under the same z."""
    from zfleet.engine.blocking import SyncEngine
    from zfleet.engine.contract import BASE_Z, GenerationRequest, SamplingParams
    from zfleet.engine.torch_engine.engine import TorchEngine
    from zfleet.tasks.template import chat_tokens

    model = live.bundle.open()
    prompt = chat_tokens(model.base.tokenizer, MESSAGES)
    with SyncEngine(TorchEngine(model, live.spec.engine)) as engine:
        digests = {"tiny": BASE_Z} | {f"tiny:{name}": engine.put_z(z) for name, z in live.zs.items()}
        sampling = SamplingParams(temperature=0, max_tokens=8)
        requests = [GenerationRequest(prompt, sampling, z) for z in digests.values()]
        expected = [answers[0].text for answers in engine.generate(requests)]
    assert len(set(expected)) > 2
    answers = [ask(live, name) for name in digests]
    assert [answer.choices[0].message.content for answer in answers] == expected
    assert [answer.zfleet["z"] for answer in answers] == list(digests.values())


def test_the_response_tells_what_answered(live: Live) -> None:
    said = ask(live, "tiny:both").zfleet
    assert said["model"] == "tiny:both/1"
    assert said["mixture"] == [
        {"expert": "math", "version": 1, "alpha": 0.75},
        {"expert": "sort", "version": 1, "alpha": 0.5},
    ]
    assert said["first_pass_ms"] is None
    assert said["second_pass_ms"] > 0


def test_auto_says_what_the_classifier_said(live: Live) -> None:
    said = ask(live, "tiny:auto").zfleet
    assert said["dispatch"]["method"] == "classifier"
    # A random classifier names no expert: the base answers and the response says so.
    assert said["model"] == "tiny"
    assert said["dispatch"]["reason"].endswith("base")
    assert said["first_pass_ms"] > 0


def test_a_request_mixes_experts_and_scores_its_prompt(live: Live) -> None:
    """Through the fleet's connections: the mixture's z, alternatives, and the prompt's own log-probabilities."""
    mixture = {"zfleet": {"mixture": {"sort": 0.5, "math/1": 0.75}}}
    options: dict[str, Any] = {"logprobs": 2, "echo": True, "max_tokens": 1, "temperature": 0, "prompt": "flip abc"}
    mixed: Any = live.client.completions.create(model="tiny", extra_body=mixture, **options)
    named: Any = live.client.completions.create(model="tiny:both", **options)
    assert mixed.zfleet["z"] == named.zfleet["z"] == live.zs["both"].digest
    found, expected = (answer.choices[0].logprobs.token_logprobs for answer in (mixed, named))
    assert len(found) == mixed.usage.prompt_tokens + 1
    assert found[0] is None
    assert found[1:] == pytest.approx(expected[1:], abs=1e-4)
    assert all(len(others) >= 2 for others in mixed.choices[0].logprobs.top_logprobs[1:])


def test_a_stream_is_the_same_answer(live: Live) -> None:
    whole = ask(live, "tiny:math", seed=1)
    chunks = list(ask(live, "tiny:math", seed=1, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-1].zfleet["mixture"] == whole.zfleet["mixture"]


def test_a_stream_that_is_left_frees_its_slot(live: Live) -> None:
    # Many more answers than slots: whoever goes on for a client that has left has a lot to do.
    body = {"model": "tiny:math", "prompt": "flip abc", "max_tokens": 200, "n": 64, "seed": 3}

    def engine() -> dict[str, int]:
        stats: dict[str, int] = httpx.get(f"{live.url}/healthz", timeout=TIMEOUT).json()["engine"]
        return stats

    def is_idle() -> bool:
        return not engine()["running"] and not engine()["waiting"]

    answer = httpx.post(f"{live.url}/v1/completions", json=body, timeout=TIMEOUT).json()
    whole: int = answer["usage"]["completion_tokens"]
    before = engine()["generated_tokens"]
    with httpx.stream("POST", f"{live.url}/v1/completions", json=body | {"stream": True}) as response:
        next(response.iter_lines())
    _wait_until(is_idle, "the engine goes on for a client that has left")
    assert engine()["generated_tokens"] - before < whole / 2


def test_mistakes_have_openais_form(live: Live) -> None:
    with pytest.raises(openai.NotFoundError, match="tiny:math") as missing:
        ask(live, "tiny:nobody")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        live.client.completions.create(model="tiny", prompt="flip abc", max_tokens=1000)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="tools"):
        ask(live, "tiny", tools=[{"type": "function", "function": {"name": "f"}}])


def test_a_port_in_use_is_refused(live: Live) -> None:
    from zfleet_serve.run import start_service

    with pytest.raises(ServeError, match=f"port {live.spec.port}"):
        start_service(live.spec)
    assert ask(live, "tiny").choices


def test_a_second_service_of_a_cluster_is_refused(live: Live) -> None:
    from zfleet_serve.run import run_serve

    with pytest.raises(ServeError, match=r"already has an application 'zfleet'.*stop it"):
        run_serve(live.spec, address="auto")
    assert ask(live, "tiny").choices


def test_ctrl_c_ends_with_130_and_leaves_no_process_behind(spec: ServeSpec, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "serve.yaml"
    file.write_text(dump_spec(spec.model_copy(update={"port": port})))
    command = [str(Path(sys.executable).with_name("zfleet")), "serve", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            assert process.stdout is not None
            assert f"127.0.0.1:{port}" in process.stdout.readline()
            assert httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=TIMEOUT).status_code == 200
            started = psutil.Process(process.pid).children(recursive=True)
            assert started
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 130, errors
            assert errors.startswith("interrupted")
            assert errors.count("\n") == 1
            _, alive = psutil.wait_procs(started, timeout=120)
            assert not alive
        finally:
            process.kill()


async def test_of_two_replicas_one_is_killed_and_each_answer_is_whole_or_an_error(live: Live) -> None:
    """Sixteen streams of four models: what a client gets is its expert's, or says that it is not whole.

    Then all engines that are there are killed: what answers is a process that was given every z again.
    """
    models = ["tiny", "tiny:math", "tiny:sort", "tiny:both"]
    expected = {model: ask(live, model).choices[0].message.content for model in models}
    assert len(set(expected.values())) > 2
    counts = {"answers": 0, "errors": 0, "after": 0}
    killed = asyncio.Event()

    async def stream(client: openai.AsyncOpenAI, model: str) -> None:
        while counts["after"] < 100:
            try:
                text = await _streamed(client, model)
            except (openai.APIError, httpx.TransportError):
                counts["errors"] += 1
                continue
            assert text == expected[model]
            counts["answers"] += 1
            counts["after"] += killed.is_set()

    async with (
        openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT) as client,
        asyncio.timeout(300),
        asyncio.TaskGroup() as group,
    ):
        for place in range(16):
            group.create_task(stream(client, models[place % len(models)]))
        while counts["answers"] < 50:
            await asyncio.sleep(0.01)
        _kill(_engines()[0])
        killed.set()
    assert counts["errors"] <= 16, "only answers that the dead replica had begun may break"

    _kill(*_engines())
    for model, text in expected.items():
        deadline = time.monotonic() + 300
        while True:
            try:
                assert ask(live, model).choices[0].message.content == text
                break
            except openai.InternalServerError:
                assert time.monotonic() < deadline, "no replica came back"
                await asyncio.sleep(0.2)


async def _streamed(client: openai.AsyncOpenAI, model: str) -> str:
    chunks = await client.chat.completions.create(
        model=model, messages=MESSAGES, temperature=0, max_tokens=8, stream=True
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


def _engines() -> list[psutil.Process]:
    """The processes of the engine replicas."""
    titles: dict[psutil.Process, str] = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            titles[process] = " ".join(process.cmdline())
    engines = [process for process, title in titles.items() if title.startswith("ray::") and "engine" in title]
    assert engines, titles
    return engines


def _kill(*processes: psutil.Process) -> None:
    for process in processes:
        process.send_signal(signal.SIGKILL)


def _wait_until(holds: Callable[[], bool], otherwise: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)
