"""vLLM's own LoRA answers with an exported adapter as the merged Hugging Face model does.

Only vLLM's own processes show that. One start serves an adapter of full rank, whose ranks differ by matrix, and one
that is truncated, in one batch, at the largest rank that vLLM takes.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import torch

from zfleet.config.specs import BaseSpec, EngineSpec
from zfleet.engine.vllm_engine.plan import VllmPlan
from zfleet.formats.lora_export import export_lora
from zfleet.models.bundle import pack_base
from zfleet.models.matrices import module_paths
from zfleet.svf.directions import largest_directions
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import Tokens, compare, random_prompts, random_z

pytestmark = pytest.mark.vllm
RANK, LENGTH = 8, 16


def _truncated(z: ZVector, factors: Factors) -> ZVector:
    """Return the expert that an adapter of rank ``RANK`` holds: z = 1 in all other directions."""
    values = {}
    for name, value in z.values.items():
        kept = largest_directions(value.unsqueeze(0), factors.matrices[name].s, RANK)
        values[name] = torch.ones_like(value).index_copy(0, kept, value[kept])
    return ZVector(values, z.base, z.factors, z.targets)


async def test_vllm_gives_the_merged_models_tokens(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    bundle = pack_base(BaseSpec(model=str(tiny_folder)))
    folder = bundle.factor_folder()
    factors = folder.load()
    full, other = random_z(factors, 1), random_z(factors, 2)
    paths = module_paths(tiny_folder, factors.matrices)
    for name, z, rank in (("full", full, 2**31), ("few", other, RANK)):
        (tmp_path / name).mkdir()
        export_lora(z, folder, paths, tmp_path / name, keep=partial(largest_directions, k=rank))
    zs = [full, _truncated(other, factors), None] * 4
    prompts = random_prompts(60, [3, 31, 7, 18, 5, 44, 12, 9, 3, 8, 2, 30])
    VllmPlan.unpack(bundle, EngineSpec(kind="vllm")).set_environment()
    answers = await _answers(tiny_folder, [tmp_path / "full", tmp_path / "few", None] * 4, prompts)
    parity = compare(tiny_folder, factors, prompts, zs, answers)
    assert parity.different == ()
    assert len(parity.unmoved) < len(zs) // 2, "the z change nothing"


async def _answers(base: Path, adapters: list[Path | None], prompts: list[Tokens]) -> list[Tokens]:
    from vllm import SamplingParams
    from vllm.config.lora import MaxLoRARanks
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    settings = AsyncEngineArgs(
        model=str(base),
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=16,
        # On a CPU vLLM copies an adapter's matrices for every token of a step.
        max_num_batched_tokens=64,
        kv_cache_memory_bytes=2**28,
        block_size=32,
        enable_lora=True,
        max_lora_rank=max(get_args(MaxLoRARanks)),
        # One more than there are: on a CPU, rows of the base use the last one's memory (see docs/formats.md).
        max_loras=3,
    )
    numbers = {adapter: number for number, adapter in enumerate(dict.fromkeys(filter(None, adapters)), start=1)}
    engine = AsyncLLM.from_engine_args(settings)

    async def answer(place: int) -> Tokens:
        adapter = adapters[place]
        request = None if adapter is None else LoRARequest(adapter.name, numbers[adapter], str(adapter))
        sampling = SamplingParams(temperature=0.0, max_tokens=LENGTH, ignore_eos=True)
        stream = engine.generate(
            {"prompt_token_ids": list(prompts[place])}, sampling, request_id=str(place), lora_request=request
        )
        tokens: Tokens = ()
        async for output in stream:
            tokens = tuple(output.outputs[0].token_ids)
        return tokens

    try:
        return list(await asyncio.gather(*map(answer, range(len(prompts)))))
    finally:
        engine.shutdown()
