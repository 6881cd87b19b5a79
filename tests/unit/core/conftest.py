"""What tests of vision-language bases share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zfleet.testing.seeing import Seeing, open_seeing


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def seeing(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seeing]:
    with open_seeing(request.param, tiny_folder, tmp_path_factory.mktemp(request.param)) as opened:
        yield opened
