"""``zfleet experts``: the version that a bare name means, and carrying an expert to another base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zfleet.errors import ExpertNotFound, RegistryError
from zfleet.models.base import load_base
from zfleet.models.matrices import target_matrices
from zfleet.svf.cache import FactorCache
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z
from zfleet.testing.tiny_vision import save_tiny_vision
from zfleet_cli.commands.experts import find_version
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, Provenance


@pytest.fixture
def filled(registry: ExpertRegistry, make_z: Callable[..., ZVector]) -> ExpertRegistry:
    z = make_z(1)
    registry.register("math", z, Provenance.of(z), base_name="one")
    return registry


def test_a_bare_name_needs_no_base_if_only_one_has_it(filled: ExpertRegistry, make_z: Callable[..., ZVector]) -> None:
    assert find_version(filled, "math/1", None).qualified.startswith("one-")
    with pytest.raises(ExpertNotFound, match="mathe"):
        find_version(filled, "mathe", None)
    z = make_z(2)
    filled.register("math", z, Provenance.of(z), base_name="two")
    with pytest.raises(RegistryError, match="names no base"):
        find_version(filled, "math", None)


def test_an_expert_is_carried_to_the_model_that_contains_its_base(
    registry: ExpertRegistry, root: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    seeing = save_tiny_vision("llava", tiny_folder, tmp_path / "eyes")
    base = load_base(tiny_folder)
    matrices = target_matrices(tiny_folder, base.fingerprint, "mlp")
    z = random_z(FactorCache(tmp_path / "cache" / "factors").get(matrices), 1)
    registry.register("math", z, Provenance.of(z, task="sums", metrics={"accuracy": 0.5}), base_name="tiny")
    command = ["experts", "carry", "math", "--registry", f"sqlite:///{root / 'mlflow.db'}"]
    carry = [*command, "--from", str(tiny_folder), "--to", str(seeing), "--json"]
    done = CliRunner().invoke(app, carry)
    assert done.exit_code == 0, done.stderr
    (carried,) = (version for version in registry.list() if version.base_slug.startswith("eyes-"))
    provenance = carried.provenance
    assert (provenance.task, provenance.metrics) == ("sums", {})
    assert provenance.carried_from == f"{base.slug}.math/1"
    assert {name: part.tolist() for name, part in registry.load(carried).values.items()} == {
        name: part.tolist() for name, part in z.values.items()
    }
    again = CliRunner().invoke(app, carry)
    assert (again.exit_code, again.stdout) == (0, done.stdout)
    for origin, target, message in (
        (tiny_folder, tiny_folder, "are the same base"),
        (tmp_path, seeing, "config.json"),
    ):
        refused = CliRunner().invoke(app, [*command, "--from", str(origin), "--to", str(target)])
        assert refused.exit_code == 1
        assert message in refused.stderr
    assert len(registry.list()) == 2
