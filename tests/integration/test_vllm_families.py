"""Every supported family gives its merged models' tokens on vLLM.

Only vLLM's own processes show that, and each takes half a minute: two families stand here for the kinds of linears that
``test_vllm_engine`` has not (biases and no gate, and matrices that are stored in one), and the drills run all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from zfleet.testing.tiny_bases import FAMILIES
from zfleet.testing.vllm_parity import check_family

pytestmark = pytest.mark.vllm


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f in ("phi", "phi3") else pytest.mark.drill) for f in FAMILIES]
)
async def test_a_mixed_batch_gives_the_merged_models_tokens(family: str, tmp_path: Path) -> None:
    await check_family(family, tmp_path)
