"""Ways to answer the same prompts: transformers' ``generate``, and engines under many z."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from zfleet.config.specs import BaseSpec, EngineSpec, VllmSpec
from zfleet.engine.contract import BASE_Z, Engine, GenerationRequest, SamplingParams
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.bundle import pack_base
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_harness import run_all

SPREAD = 0.1
"""Standard deviation of the experts' values around 1; what a step costs does not depend on it."""

_FIRST_WORD = 4
"""Ids below are special tokens."""

Prompt = tuple[int, ...]

Way = Callable[[], Awaitable[list[Prompt]]]
"""Answers a load; returns the tokens of each answer."""


@dataclass(frozen=True)
class Load:
    """What all ways are asked for.

    Attributes:
        prompts: Token ids.
        new_tokens: Of each answer; the end-of-sequence token is ignored.
    """

    prompts: tuple[Prompt, ...]
    new_tokens: int

    @classmethod
    def of(cls, lengths: Sequence[int], new_tokens: int, vocabulary: int, seed: int = 0) -> Load:
        """Draw prompts of random tokens of these lengths."""
        chance = random.Random(seed)
        words = range(_FIRST_WORD, vocabulary)
        return cls(tuple(tuple(chance.choices(words, k=length)) for length in lengths), new_tokens)

    def requests(self, digests: Sequence[str]) -> list[GenerationRequest]:
        """Ask for greedy answers, prompt i under the z of digest i (again from the first one on)."""
        sampling = SamplingParams(temperature=0, max_tokens=self.new_tokens, ignore_eos=True)
        return [
            GenerationRequest(prompt, sampling, digests[number % len(digests)])
            for number, prompt in enumerate(self.prompts)
        ]


def random_experts(model: SvfModel, count: int, spread: float = SPREAD) -> list[ZVector]:
    """Draw z-vectors around 1, the same every time."""
    chance = torch.Generator().manual_seed(count)
    return [model.z_from_flat(1 + spread * torch.randn(model.layout.size, generator=chance)) for _ in range(count)]


@asynccontextmanager
async def torch_engine(model: SvfModel, slots: int, length: int) -> AsyncIterator[TorchEngine]:
    """Run the embedded engine in this process."""
    engine = TorchEngine(model, EngineSpec(slots=slots, max_length=length, z_rows=slots + 2))
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def vllm_engine(spec_of_base: BaseSpec, slots: int, length: int) -> AsyncIterator[Engine]:
    """Run vLLM with our linears."""
    from zfleet.engine.vllm_engine.engine import VllmEngine

    vllm = VllmSpec(cache_gib=0.5, batch_tokens=2048)
    spec = EngineSpec(kind="vllm", slots=slots, max_length=length, z_rows=slots + 2, vllm=vllm)
    engine = await VllmEngine.open(pack_base(spec_of_base), spec)
    try:
        yield engine
    finally:
        await engine.close()


def answering(engine: Engine, load: Load, digests: Sequence[str] = (BASE_Z,)) -> Way:
    """Return a way to answer a load on an engine."""
    requests = load.requests(digests)

    async def answer() -> list[Prompt]:
        return [completion.token_ids for completion in await run_all(engine, requests)]

    return answer


def generating(model: PreTrainedModel, load: Load, **settings: Any) -> Way:
    """Return a way to answer a load by transformers' ``generate``, all prompts in one batch, padded on the left.

    Args:
        model: Attends by ``sdpa``.
        load: The prompts.
        settings: More of ``generate``.
    """
    longest = max(map(len, load.prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in load.prompts])
    mask: Tensor = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in load.prompts])
    count = load.new_tokens

    async def generate() -> list[Prompt]:
        with torch.inference_mode():
            out: Any = model.generate(  # type: ignore[operator]
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=count,
                min_new_tokens=count,
                eos_token_id=None,
                pad_token_id=0,
                **settings,
            )
        return [tuple(row) for row in out[:, longest:].tolist()]

    return generate
