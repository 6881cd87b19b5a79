"""The parity test of one family on vLLM. Each call starts vLLM."""

from __future__ import annotations

from pathlib import Path

from zfleet.config.specs import BaseSpec, EngineSpec, VllmSpec
from zfleet.engine.vllm_engine.engine import VllmEngine
from zfleet.models.bundle import pack_base
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import (
    HIDDEN_TOLERANCE,
    collect_greedy,
    collect_hidden,
    compare,
    hidden_error,
    random_prompts,
    random_z,
)
from zfleet.testing.tiny_bases import save_tiny

_VOCABULARY = 80
"""Every tiny base has at least so many tokens."""


async def check_family(family: str, folder: Path, *, targets: str = "all", ranks: int = 1) -> None:
    """Check that a mixed batch of experts and base gives the tokens and the hidden states of the merged models.

    Args:
        family: One of ``tiny_bases.FAMILIES``.
        folder: The base is saved here; its factors go below ``ZFLEET_CACHE``.
        targets: The matrices that have factors.
        ranks: Processes over which vLLM splits the base.

    Raises:
        AssertionError: An answer or a hidden state differs, or the z change nothing.
    """
    model = save_tiny(family, folder / family)
    bundle = pack_base(BaseSpec(model=str(model), targets=targets))
    factors = bundle.open().factors
    spec = EngineSpec(kind="vllm", slots=16, z_rows=8, vllm=VllmSpec(cache_gib=0.25, tensor_parallel=ranks))
    engine = await VllmEngine.open(bundle, spec)
    try:
        zs: list[ZVector | None] = [*(random_z(factors, seed) for seed in range(3)), None] * 4
        prompts = random_prompts(_VOCABULARY, [3, 31, 7, 18, 5, 44, 12, 9] * 2, shared=40)
        answers = await collect_greedy(engine, prompts, zs, max_tokens=24)
        states = await collect_hidden(engine, prompts, zs)
    finally:
        await engine.close()
    parity = compare(model, factors, prompts, zs, answers)
    assert parity.different == ()
    assert len(parity.unmoved) < len(zs) // 2, "the z change nothing"
    assert hidden_error(model, factors, prompts, zs, states) < HIDDEN_TOLERANCE
