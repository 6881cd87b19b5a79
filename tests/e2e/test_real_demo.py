"""The demo on a pretrained model in small: every stage on a random base, and a second run that finds it all.

With real processes, because that is what is shown: that trainings, searches and measurements fit together, and that
each of them is found again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from zfleet.testing.tokenizers import byte_level
from zfleet_cli.demo.real import bench
from zfleet_cli.demo.real.plan import QUICK, Plan
from zfleet_cli.demo.real.run import run_real_demo
from zfleet_jobs.compare import run as compare_run
from zfleet_jobs.search import mixtures

PLAN = Plan(
    # Two experts: each training is a process of its own.
    tasks=QUICK.tasks,
    steps=1,
    prompts_per_step=2,
    samples_per_prompt=2,
    validation=4,
    held_out=4,
    exam=4,
    draws=(0,),
    shots=2,
    population=6,
    generations=1,
    minutes=1,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Write a random Llama that reads bytes, with a chat template."""
    tokenizer = byte_level()
    tokenizer.chat_template = "{{ messages[0].content }}\n"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "bytes")
    tokenizer.save_pretrained(tmp_path / "bytes")
    return tmp_path / "bytes"


def test_a_second_run_repeats_nothing(
    base: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    first = run_real_demo(str(base), out, PLAN, quick=True)
    assert list(first["tasks"]) == list(PLAN.tasks)
    assert {path.name for path in out.glob("*.png")} == {"tasks.png", "curves.png", "adaptation.png"}
    assert "What did not" in (out / "report.html").read_text()
    assert json.loads((out / "report.json").read_text())["base"]["name"] == "bytes"
    assert "Report: " in capsys.readouterr().out

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was done again")

    monkeypatch.setattr(compare_run, "_train", refuse)
    monkeypatch.setattr(mixtures, "run_tune", refuse)
    monkeypatch.setattr(bench, "evaluate", refuse)
    again = run_real_demo(str(base), out, PLAN, quick=True)
    assert {key: value for key, value in again.items() if key != "seconds"} == {
        key: value for key, value in first.items() if key != "seconds"
    }
