"""The transfer of experts: what is measured under which z, what is registered, what is refused, what is printed.

The engine's answers are made up here; tests/integration/test_transfer.py asks a real one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from zfleet.config.specs import BaseSpec
from zfleet.config.transfer import TransferSpec
from zfleet.errors import RegistryError, RewardError, SpecError, WrongBase
from zfleet.evaluate.statistics.single import paired
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.transfer import shuffled
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z
from zfleet.testing.tiny_bases import save_tiny
from zfleet_cli.main import app
from zfleet_jobs.transfer import run as transfer_run
from zfleet_jobs.transfer.findings import Finding, findings
from zfleet_jobs.transfer.run import TransferResult, run_transfer
from zfleet_registry import ExpertRegistry, Parent, Provenance

RIGHT, WRONG = 1.0, -1.0
Z = ZVector | None


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bases of one architecture, and prompts."""
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    save_tiny("llama", tmp_path / "one", 0)
    save_tiny("mistral", tmp_path / "two", 1)
    rows = [{"prompt": f"flip {left}{right}", "answer": right} for left in "abcdef" for right in "xyz"]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def origin(root: Path) -> BaseBundle:
    return pack_base(BaseSpec(model=str(root / "one"), targets="mlp"))


@pytest.fixture
def registry(root: Path, origin: BaseBundle) -> ExpertRegistry:
    """Two experts of the first base."""
    registry = ExpertRegistry(f"sqlite:///{root}/mlflow.db")
    for seed, name in enumerate(("math", "code")):
        z = random_z(origin.factor_folder().load(), seed)
        registry.register(name, z, Provenance.of(z, task=name, data_digest="d" * 64), base_name="one")
    return registry


def _data(root: Path, **changes: Any) -> dict[str, Any]:
    task = {"jsonl": str(root / "prompts.jsonl"), "template": "{prompt}", "max_tokens": 4, "test_fraction": 0.5}
    given = {
        "origin": {"model": str(root / "one")},
        "base": {"model": str(root / "two"), "targets": "mlp"},
        "experts": ["math", "code/1"],
        "task": task,
        "registry": f"sqlite:///{root}/mlflow.db",
    }
    return given | changes


def _spec(root: Path, **changes: Any) -> TransferSpec:
    return TransferSpec.model_validate(_data(root, **changes))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Z]]:
    """What the engine was asked under; the first z gets no prompt right, each other one more."""
    calls: list[Sequence[Z]] = []

    def answer(shipped: object, engine: object, resources: object, task: Any, zs: Sequence[Z], skip: bool) -> list[Any]:
        assert not task.train
        calls.append(zs)
        return [tuple(RIGHT if k < place else WRONG for k in range(len(task.test))) for place in range(len(zs))]

    monkeypatch.setattr(transfer_run, "rewards_under", answer)
    monkeypatch.setattr(transfer_run, "cluster", lambda address: nullcontext())
    monkeypatch.setattr(transfer_run, "ship", lambda bundle: bundle)
    return calls


def test_base_ordered_and_shuffled_are_measured_and_nothing_is_registered(
    root: Path, registry: ExpertRegistry, asked: list[Sequence[Z]]
) -> None:
    result = run_transfer(_spec(root, eval_samples=5))
    to = pack_base(BaseSpec(model=str(root / "two"), targets="mlp"))
    ((base, math, math_shuffled, code, code_shuffled),) = asked
    assert base is None
    for name, ordered, control in (("math", math, math_shuffled), ("code", code, code_shuffled)):
        assert ordered is not None
        assert control is not None
        trained = registry.load(registry.resolve(name, result.origin))
        assert all(torch.equal(ordered.values[matrix], value) for matrix, value in trained.values.items())
        ordered.check_fits(base=to.fingerprint, factors=to.factors_digest, layout=to.factor_folder().layout)
        assert control.digest == shuffled(ordered, 0).digest
    assert (result.base, result.task, result.registered, result.alphas) == (to.slug, "prompts", (), None)
    assert [(one.way, one.expert, one.n, one.accuracy.mean) for one in result.findings] == [
        ("base", "", 5, 0.0),
        ("ordered", "math/1", 5, 0.2),
        ("shuffled", "math/1", 5, 0.4),
        ("ordered", "code/1", 5, 0.6),
        ("shuffled", "code/1", 5, 0.8),
    ]
    assert len(registry.list()) == 2


def test_ordered_experts_are_registered_once_and_say_where_they_come_from(
    root: Path, registry: ExpertRegistry, origin: BaseBundle, asked: list[Sequence[Z]]
) -> None:
    spec = _spec(root, register_ordered=True)
    result = run_transfer(spec)
    assert result.registered == (f"math-from-{origin.slug}/1", f"code-from-{origin.slug}/1")
    assert run_transfer(spec).registered == result.registered
    version = registry.resolve(result.registered[0], result.base)
    assert version.aliases == (), "a transfer is no champion until somebody says so"
    provenance, trained = version.provenance, registry.resolve("math", origin.slug)
    assert (provenance.kind, provenance.source_base) == ("transfer", origin.fingerprint)
    assert provenance.parents == (Parent(trained.qualified, trained.z_digest, 1.0),)
    assert (provenance.task, provenance.data_digest) == ("math", "d" * 64)
    assert provenance.metrics == {"accuracy": 1 / 9, "accuracy_base": 0.0, "accuracy_shuffled": 2 / 9}
    first = asked[0][1]
    assert first is not None
    assert registry.load(version).digest == first.digest
    assert TransferSpec.model_validate_json(provenance.spec) == spec.model_copy(
        update={"engine": TransferSpec.model_validate_json(provenance.spec).engine}
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"experts": ["math", "math/1"]}, SpecError, "experts name math/1 twice"),
        ({"base": {"model": "two", "targets": "all"}}, SpecError, "has targets 'mlp', base.targets is 'all'"),
        ({"experts": ["m" * 90], "register_ordered": True}, RegistryError, "expert name"),
    ],
)
def test_experts_that_cannot_be_transferred_are_refused(
    root: Path,
    registry: ExpertRegistry,
    asked: list[Sequence[Z]],
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(root)
    z = registry.load(registry.list()[0])
    registry.register("m" * 90, z, Provenance.of(z), base_name="one")
    with pytest.raises(error, match=message):
        run_transfer(_spec(root, **changes))
    assert not asked


def test_bases_of_other_shapes_and_the_same_base_are_refused(root: Path, registry: ExpertRegistry) -> None:
    save_tiny("llama", root / "wide", 1, intermediate_size=128)
    with pytest.raises(WrongBase, match=r"model\.layers\.0\.mlp\.gate_proj is 96 x 64 and 128 x 64"):
        run_transfer(_spec(root, base={"model": str(root / "wide"), "targets": "mlp"}))
    save_tiny("llama", root / "copy", 0)
    with pytest.raises(SpecError, match="are the same base"):
        run_transfer(_spec(root, base={"model": str(root / "copy"), "targets": "mlp"}))


def test_findings_by_hand() -> None:
    rewards: dict[tuple[str, str], tuple[float | None, ...]] = {
        ("base", ""): (WRONG, WRONG, RIGHT, None),
        ("ordered", "a/1"): (RIGHT, RIGHT, RIGHT, RIGHT),
        ("shuffled", "a/1"): (WRONG, RIGHT, WRONG, RIGHT),
        ("searched", ""): (RIGHT, RIGHT, WRONG, RIGHT),
    }
    base, ordered, control, searched = findings(rewards)
    assert {one.n for one in (base, ordered, control, searched)} == {3}
    assert (base.over_base, base.over_shuffled) == (None, None)
    assert ordered.over_base == paired([True, True, True], [False, False, True])
    assert ordered.over_shuffled == paired([True, True, True], [False, True, False])
    assert control.over_shuffled is None
    assert searched.over_base == paired([True, True, False], [False, False, True])
    assert ordered.accuracy.low is not None
    assert ordered.accuracy.low < 1
    with pytest.raises(RewardError, match="under all 2 z"):
        findings({("base", ""): (None, RIGHT), ("ordered", "a/1"): (RIGHT, None)})


# The command


def _command(root: Path, *arguments: str, **changes: Any) -> Any:
    (root / "transfer.yaml").write_text(yaml.safe_dump({"kind": "transfer"} | _data(root, **changes)))
    return CliRunner().invoke(app, ["transfer", str(root / "transfer.yaml"), *arguments], env={"COLUMNS": "79"})


def test_a_dry_run_compares_the_bases_and_plans_the_memory(root: Path) -> None:
    done = _command(root, "--dry-run")
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(done.stdout)["kind"] == "transfer"
    assert "memory of the process that answers" in done.stderr
    save_tiny("llama", root / "deep", 1, num_hidden_layers=3)
    refused = _command(root, "--dry-run", base={"model": str(root / "deep"), "targets": "mlp"})
    assert refused.exit_code == 1
    assert "model.layers.2.mlp.gate_proj is not there and 96 x 64" in refused.stderr


def test_the_table_fits_and_the_json_has_everything(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewards: dict[tuple[str, str], tuple[float | None, ...]] = {
        ("base", ""): (WRONG,) * 500,
        ("ordered", "reverse/12"): (RIGHT,) * 300 + (WRONG,) * 200,
        ("shuffled", "reverse/12"): (RIGHT,) * 50 + (WRONG,) * 450,
        ("searched", ""): (RIGHT,) * 400 + (WRONG,) * 100,
    }
    found: tuple[Finding, ...] = tuple(findings(rewards))
    result = TransferResult(
        "lab-1a2b3c4d", "lab-8-5e6f7a8b", "exam", found, {"reverse/12": 0.5}, ("reverse-from-lab-1a2b3c4d/1",)
    )
    monkeypatch.setattr(transfer_run, "run_transfer", lambda *_: result)
    done = _command(root)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) < 80
    assert "experts of lab-1a2b3c4d on lab-8-5e6f7a8b: exam, 500 prompts" in " ".join(done.stdout.split())
    for text in ("0.600", "0.500", "reverse/12", "searched reverse/12 0.5", "registered lab-8-5e6f7a8b.reverse-from"):
        assert text in " ".join(done.stdout.split())
    (plain,) = json.loads(_command(root, "--json").stdout)
    assert plain["findings"][1]["over_shuffled"]["mean"] == 0.5
    assert plain["findings"][0]["over_base"] is None
    assert plain["alphas"] == {"reverse/12": 0.5}


def test_a_transfer_is_not_submitted(root: Path) -> None:
    (root / "transfer.yaml").write_text(yaml.safe_dump({"kind": "transfer"} | _data(root)))
    refused = CliRunner().invoke(app, ["submit", str(root / "transfer.yaml"), "--dry-run"])
    assert refused.exit_code == 1
    assert "of kind 'transfer', whose two bases are not sent" in refused.stderr
