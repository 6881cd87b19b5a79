"""Each test has its own registry: the database is initialised once per session and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance
from zfleet_registry.testing import write_certificate, write_key

BASE = "1a2b3c4d" * 8
FACTORS = "f" * 64

MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Initialise a database that no test writes to."""
    root = tmp_path_factory.mktemp("fresh")
    ExpertRegistry(root=root)
    return root / "mlflow.db"


@pytest.fixture
def root(database: Path, tmp_path: Path) -> Path:
    """Make the folder of an empty registry."""
    folder = tmp_path / "registry"
    folder.mkdir()
    shutil.copy(database, folder)
    return folder


@pytest.fixture
def registry(root: Path) -> ExpertRegistry:
    return ExpertRegistry(root=root)


@pytest.fixture
def make_z() -> MakeZ:
    def make(seed: float = 0, base: str = BASE) -> ZVector:
        values = {"model.layers.0.mlp.up_proj": torch.linspace(0.5, 1.5, 8) + seed}
        return ZVector(values, base, FACTORS, "mlp")

    return make


@pytest.fixture
def put(registry: ExpertRegistry, make_z: MakeZ) -> Put:
    """Register a z that depends on ``seed`` alone."""

    def register(
        name: str = "math", seed: float = 0, alias: str | None = None, base_name: str = "lab"
    ) -> ExpertVersion:
        z = make_z(seed)
        return registry.register(name, z, Provenance.of(z), base_name=base_name, alias=alias)

    return register


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with the keys `release` and `stranger`, and an authority that issued a certificate for `release`."""
    folder = tmp_path / "keys"
    folder.mkdir()
    release, authority = write_key(folder, "release"), write_key(folder, "authority")
    write_key(folder, "stranger")
    write_certificate(folder, "authority", authority, ("authority", authority), authority=True)
    write_certificate(folder, "release", release, ("authority", authority))
    return folder
