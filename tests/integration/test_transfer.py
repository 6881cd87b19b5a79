"""A transfer between two tiny bases on a real cluster, with a real engine and a real search.

What is measured under which z, and what is registered, is in tests/unit/jobs. Here a worker opens the other base, which
it has from the driver by reference, and its answers must be those of an engine in this process.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zfleet.config.specs import BaseSpec, EngineSpec
from zfleet.config.transfer import TransferSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import WrongBase
from zfleet.evaluate.graded import evaluate
from zfleet.models.bundle import pack_base
from zfleet.svf.transfer import transfer
from zfleet.tasks.build import build_task
from zfleet.testing.parity import random_z
from zfleet.testing.tiny_bases import save_tiny
from zfleet_jobs.transfer.run import run_transfer
from zfleet_registry import ExpertRegistry, Provenance


def test_a_transfer_measures_what_an_engine_of_the_other_base_answers(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    save_tiny("llama", tmp_path / "one", 0)
    save_tiny("mistral", tmp_path / "two", 1)
    rows = [{"prompt": f"flip {left}{right}"} for left in "abcdef" for right in "uvwxyz"]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    origin, to = (pack_base(BaseSpec(model=str(tmp_path / name))) for name in ("one", "two"))
    registry = ExpertRegistry()
    zs = {name: random_z(origin.factor_folder().load(), seed) for seed, name in enumerate(("math", "code"))}
    for name, z in zs.items():
        registry.register(name, z, Provenance.of(z), base_name="one")
    reward = {"kind": "regex", "value": r"[aeiou02468]"}
    task = {"jsonl": "prompts.jsonl", "template": "{prompt}", "max_tokens": 4, "test_fraction": 0.6, "reward": reward}
    spec = TransferSpec.model_validate(
        {
            "origin": {"model": str(tmp_path / "one")},
            "base": {"model": str(tmp_path / "two")},
            "experts": ["math", "code"],
            "task": task,
            "search": True,
            "shots": 3,
            "register_ordered": True,
            "engine": {"kind": "torch", "slots": 32},
        }
    )
    result = run_transfer(spec)
    measured = {(one.way, one.expert): one.accuracy.mean for one in result.findings}
    built = build_task(spec.task)
    model = to.open()
    with SyncEngine(TorchEngine(model, EngineSpec(slots=32))) as engine:
        tokenizer = model.base.tokenizer
        assert measured["base", ""] == evaluate(engine, tokenizer, built, built.test).accuracy
        for name, z in zs.items():
            there = transfer(z, origin.factor_folder().load(), model.factors)
            expected = evaluate(engine, tokenizer, built, built.test, engine.put_z(there)).accuracy
            assert measured["ordered", f"{name}/1"] == expected
            with pytest.raises(WrongBase, match="belongs to base"):
                engine.put_z(z)
    assert len(set(measured.values())) > 1, "every z answers alike: there is nothing to compare"
    assert result.alphas is not None
    assert result.alphas.keys() == {"math/1", "code/1"}
    assert len(result.registered) == 2
    served = registry.load(registry.resolve(result.registered[0], to.slug))
    model.check(served)
