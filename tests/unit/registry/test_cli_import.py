"""``zfleet experts import``: files of the reference implementation become registered experts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from zfleet.models.base import Base, load_base
from zfleet.testing.reference_files import Policy, params_of
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry

Import = Callable[..., Any]


@pytest.fixture
def run(root: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Import:
    """Return ``run(file, *options)``: the command, on the tiny base and the test's own registry."""
    # The tests of this file share one cache of factors.
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path_factory.getbasetemp() / "import-cache"))
    where = ["--base", str(tiny_folder), "--registry", f"sqlite:///{root / 'mlflow.db'}"]

    def invoke(file: Path, *options: str) -> Any:
        return CliRunner().invoke(app, ["experts", "import", str(file), *where, "--name", "math", *options])

    return invoke


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> Base:
    return load_base(tiny_folder)


def test_a_file_becomes_a_version_once(run: Import, registry: ExpertRegistry, base: Base, tmp_path: Path) -> None:
    params = params_of(base.model)
    by_place, by_name = tmp_path / "policy_params.pt", tmp_path / "learnable_params.pt"
    torch.save(Policy(params).state_dict(), by_place)
    torch.save(params, by_name)

    dry = run(by_place, "--dry-run", "--json")
    assert dry.exit_code == 0, dry.stderr
    assert registry.list() == []
    done = run(by_place, "--json")
    assert done.exit_code == 0, done.stderr
    (version,) = registry.list()
    assert version.qualified == f"{base.slug}.math/1"
    provenance = version.provenance
    assert (provenance.task, provenance.targets, provenance.kind) == ("imported", "mlp", "expert")
    assert provenance.imported_from == f"policy_params.pt sha256:{hashlib.sha256(by_place.read_bytes()).hexdigest()}"
    assert json.loads(dry.stdout)["provenance"]["z_digest"] == version.z_digest
    assert registry.load(version).values.keys() == {key.removesuffix(".weight") for key in params}

    # The other kind of file gives the same z.
    for again in (run(by_place, "--json"), run(by_name, "--json")):
        assert (again.exit_code, again.stdout) == (0, done.stdout)
    assert registry.list() == [version]


def test_a_file_that_cannot_be_imported_is_refused(
    run: Import, registry: ExpertRegistry, base: Base, tmp_path: Path
) -> None:
    params = params_of(base.model)
    name = next(iter(params))
    contents: list[tuple[Any, str]] = [
        ([1, 2], "a list"),
        (params | {name: torch.full((64,), torch.nan)}, "NaN"),
        (params | {name: torch.full((64,), -1e4)}, "no rescale"),
        ({key: p for key, p in params.items() if key != name}, f"lacks {name.removesuffix('.weight')}"),
    ]
    file = tmp_path / "policy_params.pt"
    for content, message in contents:
        torch.save(content, file)
        refused = run(file)
        assert refused.exit_code == 1
        assert message in refused.stderr
        assert "remedy: " in refused.stderr
    torch.save(params, file)
    refused = run(file, "--name", "a b")
    assert refused.exit_code == 1
    assert "'a b' cannot be used" in refused.stderr
    assert registry.list() == []
