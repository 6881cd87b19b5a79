"""Every supported family gives its merged models' tokens on vLLM, and so does a model that is split over two ranks.

Starting vLLM takes longer than all the rest: what ``test_vllm_engine`` shows of Llama is left to the drills here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from zfleet.config.specs import BaseSpec, EngineSpec, VllmSpec
from zfleet.engine.vllm_engine import VllmEngine
from zfleet.models.bundle import pack_base
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import collect_greedy, compare, random_prompts, random_z
from zfleet.testing.tiny_bases import FAMILIES, save_tiny

pytestmark = pytest.mark.vllm

VOCABULARY = 80
"""Every tiny base has at least so many tokens."""


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.drill if f.startswith("llama") else ()) for f in FAMILIES]
)
async def test_a_mixed_batch_gives_the_merged_models_tokens(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _check(family, "all", 1, tmp_path, monkeypatch)


@pytest.mark.parametrize("family", ["llama-bias", pytest.param("phi3", marks=pytest.mark.drill)])
async def test_two_ranks_give_the_merged_models_tokens(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with a key-value head that both ranks hold, one whose base stores q, k and v as one matrix."""
    await _check(family, "all", 2, tmp_path, monkeypatch)


async def test_some_parts_of_a_fused_linear_have_factors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await _check("llama", r".*\.(q_proj|v_proj|up_proj)", 1, tmp_path, monkeypatch)


async def _check(family: str, targets: str, ranks: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(folder / "cache"))
    model = save_tiny(family, folder / family)
    bundle = pack_base(BaseSpec(model=str(model), targets=targets))
    factors = bundle.open().factors
    spec = EngineSpec(kind="vllm", slots=16, z_rows=8, vllm=VllmSpec(cache_gib=0.25, tensor_parallel=ranks))
    engine = await VllmEngine.open(bundle, spec)
    try:
        zs: list[ZVector | None] = [*(random_z(factors, seed) for seed in range(3)), None] * 4
        prompts = random_prompts(VOCABULARY, [3, 31, 7, 18, 5, 44, 12, 9] * 2, shared=40)
        answers = await collect_greedy(engine, prompts, zs, max_tokens=24)
    finally:
        await engine.close()
    parity = compare(model, factors, prompts, zs, answers)
    assert parity.different == ()
    assert len(parity.unmoved) < len(zs) // 2, "the z change nothing"
