"""A model that is split over two ranks, or has factors in parts, gives its merged models' tokens on vLLM.

Only vLLM's own processes show that: each case starts them with another split. A file of its own, so that both processes
that run tests have as much to do.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from zfleet.testing.vllm_parity import check_family

pytestmark = pytest.mark.vllm


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", ["llama-bias", pytest.param("phi3", marks=pytest.mark.drill)])
async def test_two_ranks_give_the_merged_models_tokens(family: str, tmp_path: Path) -> None:
    """One with a key-value head that both ranks hold, one whose base stores q, k and v as one matrix."""
    await check_family(family, tmp_path, ranks=2)


async def test_some_parts_of_a_fused_linear_have_factors(tmp_path: Path) -> None:
    await check_family("llama", tmp_path, targets=r".*\.(q_proj|v_proj|up_proj)")
