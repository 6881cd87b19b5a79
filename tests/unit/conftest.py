"""What tests of the science share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.svf_model import SvfModel
from zfleet.testing.seeing import Seeing, open_seeing


@pytest.fixture(scope="module")
def engine(tiny_model: SvfModel) -> Iterator[SyncEngine]:
    """The embedded engine on the tiny base."""
    with SyncEngine(TorchEngine(tiny_model, EngineSpec(slots=64))) as engine:
        yield engine


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def seeing(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seeing]:
    with open_seeing(request.param, tiny_folder, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened
