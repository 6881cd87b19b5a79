"""A tiny base with its factors on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from zfleet.svf.zvector import ZVector
from zfleet.testing.exports import FactoredBase
from zfleet.testing.parity import random_z


@pytest.fixture(scope="module")
def based(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> FactoredBase:
    return FactoredBase.of(tiny_folder, tmp_path_factory.mktemp("factors"))


@pytest.fixture(scope="module")
def z(based: FactoredBase) -> ZVector:
    return random_z(based.factors.load(), 1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Make the empty folder of an export."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
