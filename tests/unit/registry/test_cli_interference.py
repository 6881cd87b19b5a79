"""``zfleet experts interference``: what it prints, draws and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from zfleet.models.base import load_base
from zfleet.models.matrices import target_matrices
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors
from zfleet.svf.interference import predict_interference
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, Provenance

Command = Callable[..., Result]


@pytest.fixture
def factors(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factors:
    """Of the tiny base, in this test's own cache."""
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    matrices = target_matrices(tiny_folder, load_base(tiny_folder).fingerprint, "mlp")
    return FactorCache(tmp_path / "cache" / "factors").get(matrices)


@pytest.fixture
def command(registry: ExpertRegistry, root: Path, factors: Factors) -> Command:
    """``command(*arguments)``, in a registry with two experts and one that is the base."""
    nothing = {name: torch.ones_like(s) for name, s in factors.singular_values.items()}
    still = ZVector(nothing, factors.base, factors.digest, factors.targets)
    for name, z in {"math": random_z(factors, 1), "code": random_z(factors, 2), "still": still}.items():
        registry.register(name, z, Provenance.of(z), base_name="tiny")

    def run(*arguments: str) -> Result:
        given = ["experts", "interference", *arguments, "--registry", f"sqlite:///{root / 'mlflow.db'}"]
        return CliRunner().invoke(app, given, env={"COLUMNS": "79"})

    return run


def test_two_experts_are_compared_matrix_by_matrix(command: Command, factors: Factors) -> None:
    done = command("math", "code/1")
    assert done.exit_code == 0, done.output
    found = predict_interference({"math/1": random_z(factors, 1), "code/1": random_z(factors, 2)}, factors)
    own, whole = [line for line in done.stdout.splitlines() if "math/1" in line]
    assert f"{float(found.size[0]):.1%}" in own
    assert f"{float(found.overall.angle[0, 1]):.0f}°" in whole
    assert f"{float(found.overall.cosine[0, 1]):+.3f}" in whole
    for name, one in found.matrices.items():
        (line,) = [line for line in done.stdout.splitlines() if f" {name} " in line]
        assert f"{float(one.overlap[0, 1]):.3f}" in line
    assert max(map(len, done.stdout.splitlines())) < 80


def test_the_base_is_named_as_what_has_no_angle(command: Command, tmp_path: Path) -> None:
    picture = tmp_path / "heat.png"
    done = command("math", "code", "still", "--plot", str(picture))
    assert done.exit_code == 0, done.output
    assert "still/1 is z = 1, the base: a change of nothing has no angle" in done.stdout
    assert done.stdout.count("undefined") == 2 * 3
    assert "matrix by matrix" not in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_has_all_pairs_and_null_for_what_is_undefined(command: Command, factors: Factors) -> None:
    done = command("math", "code", "still", "--json")
    found = json.loads(done.stdout)
    assert list(found["experts"]) == ["math/1", "code/1", "still/1"]
    assert found["experts"]["math/1"] > found["experts"]["still/1"] == 0
    first, *others = found["pairs"]
    assert (first["first"], first["second"]) == ("math/1", "code/1")
    assert -1 <= first["cosine"] <= 1
    assert first["matrices"].keys() == factors.matrices.keys()
    assert [(pair["cosine"], pair["angle"], pair["overlap"]) for pair in others] == [(None, None, None)] * 2


def test_what_cannot_be_compared_is_refused(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in (
        (["math"], "1 experts have no pairs"),
        (["math", "code", "math/1"], "math/1 is named twice"),
        (["math", "code", "--plot", str(tmp_path / "no" / "heat.png")], "cannot be written"),
    ):
        refused = command(*arguments)
        assert refused.exit_code == 1
        assert message in refused.stderr
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "empty"))
    refused = command("math", "code")
    assert refused.exit_code == 1
    assert "are not on this machine" in refused.stderr
    assert "zfleet decompose --set base.model=MODEL --set base.targets=mlp" in refused.stderr
