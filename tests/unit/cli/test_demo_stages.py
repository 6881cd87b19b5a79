"""The demo's plan, its stages, its port, the mixture that it registers, and the answers over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import uvicorn
from rich.console import Console

from zfleet.config.load import parse_spec
from zfleet.config.search import SearchSpec
from zfleet.engine.vllm_engine import version as vllm_version
from zfleet.errors import EngineError
from zfleet.models.base import Base
from zfleet.svf.zvector import ZVector
from zfleet_cli.demo.lab.plan import DRAWS, EXAMS, MIXTURE, MIXTURE_EXAM, SHOTS, search_spec, serve_spec, train_spec
from zfleet_cli.demo.lab.run import _register, run_demo
from zfleet_cli.demo.lab.served import PROMPTS, ask_service, free_port
from zfleet_cli.demo.stages import Stages
from zfleet_jobs.search.mixtures import FoundMixture
from zfleet_jobs.search.settings import SearchSettings
from zfleet_registry import ExpertRegistry
from zfleet_serve.http.gateway import create_app
from zfleet_serve.testing import fake_stage


def test_stages_are_announced_and_measured() -> None:
    out = io.StringIO()
    stages = Stages(Console(file=out, width=80))
    with stages.stage("train", "train [two] experts"):
        pass
    with stages.stage("serve", "serve them"):
        pass
    seconds = stages.with_total()
    assert list(seconds) == ["train", "serve", "total"]
    assert 0 <= seconds["train"] + seconds["serve"] <= seconds["total"]
    assert "total" not in stages.seconds
    assert out.getvalue().index("train") < out.getvalue().index("serve them")


def test_a_stage_that_fails_has_no_time() -> None:
    stages = Stages(Console(file=io.StringIO()))
    with pytest.raises(KeyboardInterrupt), stages.stage("train", "train"):
        raise KeyboardInterrupt
    assert list(stages.with_total()) == ["total"]


def test_the_preferred_port_is_used_if_it_is_free() -> None:
    port = free_port(0)
    assert free_port(port) == port


def test_another_port_is_used_if_the_preferred_one_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = free_port(port)
        assert other != port
        with socket.socket() as free:
            free.bind(("127.0.0.1", other))


def test_an_engine_that_is_not_installed_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_version, "installed_vllm", lambda: None)
    with pytest.raises(EngineError, match="vLLM is not installed"):
        run_demo(tmp_path / "out", keep=False, kind="vllm")
    assert not (tmp_path / "out").exists()


def test_every_part_runs_on_the_chosen_engine() -> None:
    specs = (train_spec("vllm"), search_spec(("reverse",), "vllm"), serve_spec(8000, "vllm"))
    assert {spec.engine.kind for spec in specs} == {"vllm"}


def test_every_expert_of_an_exam_is_trained() -> None:
    trained = {expert.name for expert in train_spec().experts}
    assert {name for members in EXAMS.values() for name in members} <= trained


def test_the_mixture_is_registered_once_with_its_parents_and_its_search(
    tiny_base: Base,
    make_z: Callable[..., ZVector],
    found_mixture: Callable[..., FoundMixture],
    tmp_path: Path,
) -> None:
    registry = ExpertRegistry(root=tmp_path)
    experts = {name: make_z(seed) for seed, name in enumerate(EXAMS[MIXTURE_EXAM])}
    winner = found_mixture(f"{MIXTURE_EXAM}-{DRAWS[0]}", experts, [0.5, 0.25, 1.0])
    spec = search_spec(tuple(f"{name}/3" for name in experts))
    assert _register(registry, winner, spec, experts, tiny_base) == f"{MIXTURE}/1"
    assert _register(registry, winner, spec, experts, tiny_base) == f"{MIXTURE}/1"

    (version,) = registry.list(tiny_base.slug)
    assert version == registry.resolve(MIXTURE, tiny_base.slug)
    assert version.z_digest == winner.z.digest
    assert [(parent.reference, parent.z_digest, parent.alpha) for parent in version.provenance.parents] == [
        (f"{name}/3", experts[name].digest, winner.alphas[name]) for name in experts
    ]
    # The stored spec can be given to `zfleet search`, and has the settings of this search.
    stored = parse_spec(json.loads(version.provenance.spec), SearchSpec)
    assert stored == spec
    assert (stored.experts, stored.shots, stored.shots_seed) == (("reverse/3", "sort/3", "add/3"), SHOTS, DRAWS[0])
    assert SearchSettings.of(stored) == SearchSettings(population=32, generations=8, seed=0)


async def test_the_service_is_asked_over_http() -> None:
    async with fake_stage() as stage:
        # Give the stage's experts the names that the demo asks for.
        for name, original in (("reverse", "sort"), ("exam-mix", "both"), ("combine", "math")):
            version = stage.registry.resolve(original, "fake-0123abcd")
            stage.registry.add(name, stage.registry.load(version), parents=version.provenance.parents)
        port = free_port(0)
        server = uvicorn.Server(
            uvicorn.Config(create_app(stage.service), port=port, log_level="error", lifespan="off", ws="none")
        )
        serving = asyncio.create_task(server.serve())
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            served = await asyncio.to_thread(ask_service, f"http://127.0.0.1:{port}", "fake")
        finally:
            server.should_exit = True
            await serving

    assert len(served) == len(PROMPTS) >= 3
    keys = {"model", "prompt", "answer", "mixture", "first_pass_ms", "second_pass_ms"}
    assert all(keys <= set(row) for row in served)
    base, expert, auto, mixed = served
    assert (base["model"], base["mixture"], base["first_pass_ms"]) == ("fake", [], None)
    assert base["answer"].startswith("base: ")
    assert (expert["model"], expert["answered_by"]) == ("fake:reverse", "fake:reverse/1")
    assert (auto["model"], auto["answered_by"]) == ("fake:auto", "fake:combine/1")
    assert auto["first_pass_ms"] >= 0
    assert {part["expert"]: part["alpha"] for part in mixed["mixture"]} == {"math": 0.75, "sort": [0.5, 0.25]}
    assert all(row["second_pass_ms"] >= 0 for row in served)
    assert json.loads(json.dumps(served)) == served
