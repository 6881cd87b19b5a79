"""Every supported family gives its merged models' tokens on vLLM.

Starting vLLM takes longer than all the rest: what ``test_vllm_engine`` shows of Llama is left to the drills here.
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
    "family", [pytest.param(f, marks=pytest.mark.drill if f.startswith("llama") else ()) for f in FAMILIES]
)
async def test_a_mixed_batch_gives_the_merged_models_tokens(family: str, tmp_path: Path) -> None:
    await check_family(family, tmp_path)
