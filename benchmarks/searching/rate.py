"""Candidates a second: a population in one engine batch, against weights that are rebuilt for each candidate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from hetero.statistics import estimate
from learning.opened import find_spec, open_base
from real.generation import Load, random_experts
from searching.settings import Form, Settings
from zfleet.config.specs import EngineSpec, VllmSpec
from zfleet.engine.contract import Engine
from zfleet.engine.open import open_engine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.bundle import pack_base
from zfleet.models.svf_model import SvfModel
from zfleet.openmp import end_helpers
from zfleet.svf.factors import Factors
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.testing.engine_harness import run_all

SHOTS, POPULATION, EXPERTS = 10, 32, 4
TOKENS = {5: (3, 2), 20: (12, 8)}
"""{tokens of a shot: those of its prompt, and of its answer}."""

BARS = {5: 6.0, 20: 2.2}

_REBUILT = 4
"""Candidates of one sample of the other side: they come one after another, so that their number changes nothing."""

_FORMS: dict[Form, object] = {"exact": "factored", "delta": {"delta": {"rank": 64}}}

Candidate = tuple[Sequence[ZVector], list[float]]
"""Experts and their alphas."""


def rate(settings: Settings) -> dict[str, Any]:
    """Measure ``candidates_over_rebuild`` for shots of 5 and of 20 tokens, and the same on vLLM, exact and delta."""
    figures: dict[str, Any] = {}
    for tokens, (prompt, answer) in TOKENS.items():
        settings.tell(f"candidates a second, shots of {tokens} tokens")
        figures |= _measured(settings, tokens, prompt, answer)
    return figures


def _measured(settings: Settings, tokens: int, prompt: int, answer: int) -> dict[str, Any]:
    opened = open_base("eighth")
    plain = opened.base.model
    rebuilt = Rebuilt(plain, opened.factors)
    bound = arithmetic_bound(plain, opened.factors, SHOTS * tokens)
    figures: dict[str, Any] = {}
    for form in settings.forms:
        ratios = asyncio.run(_ratios(settings, form, rebuilt, prompt, answer))
        found = estimate(ratios)
        name = "candidates_over_rebuild" if form == "torch" else f"candidates_over_rebuild_vllm_{form}"
        figures[f"{name}.{tokens}"] = {
            "median": found.median,
            "ci95": [found.low, found.high],
            "ratio": "candidates a second in one batch / rebuilt one by one",
            "bar": BARS[tokens] if form == "torch" else None,
            "bound": bound,
            "of_bound": found.median / bound,
        }
    return figures


async def _ratios(settings: Settings, form: Form, rebuilt: Rebuilt, prompt: int, answer: int) -> list[float]:
    """Let both sides take turns: of each turn, seconds a candidate of theirs over ours."""
    ratios = []
    async with _engine(form, prompt + answer) as (engine, experts, vocabulary):
        load = Load.of([prompt] * SHOTS, answer, vocabulary)
        candidates = _candidates(experts)
        for turn in range(settings.rounds + 1):
            start = time.perf_counter()
            await answer_all(engine, load, candidates)
            between = time.perf_counter()
            for candidate in candidates[:_REBUILT]:
                rebuilt.answer(candidate, load)
            end_helpers()
            if turn:  # The first turn warms up.
                ratios.append((time.perf_counter() - between) / _REBUILT / ((between - start) / len(candidates)))
    return ratios


def arithmetic_bound(model: PreTrainedModel, factors: Factors, tokens: int) -> float:
    """Compute the ratio that multiplications alone would give, for a candidate of so many tokens.

    Rebuilding W' [m, n] takes m r n; a token then takes m n, and with factors r (m + n). The head takes the same on
    both sides.
    """
    head: int = model.get_output_embeddings().weight.numel()
    shapes = [(one.shape[0], len(one.s), one.shape[1]) for one in factors.matrices.values()]
    rebuild = sum(m * r * n for m, r, n in shapes)
    plain = sum(m * n for m, _, n in shapes) + head
    exact = sum(r * (m + n) for m, r, n in shapes) + head
    return (rebuild + tokens * plain) / (tokens * exact)


async def answer_all(engine: Engine, load: Load, candidates: Sequence[Candidate]) -> None:
    """Mix every candidate and answer all shots under all of them, in one batch."""
    digests = [await engine.put_z(mix(*candidate)) for candidate in candidates]
    await run_all(engine, [request for digest in digests for request in load.requests([digest])])
    for digest in digests:
        await engine.drop_z(digest)


class Rebuilt:
    """The reference's way: write W' of a candidate into the weights, answer its shots in one batch, take the next."""

    def __init__(self, model: PreTrainedModel, factors: Factors) -> None:
        self._model = model
        self._factors = factors
        self._weights: dict[str, Tensor] = {}
        for name in factors.matrices:
            weight = model.get_submodule(name).get_parameter("weight")
            # Those of the base are mapped from its files, which nobody can write.
            self._weights[name] = weight.data = weight.data.clone()

    @torch.inference_mode()
    def answer(self, candidate: Candidate, load: Load) -> Tensor:
        """Rebuild, and answer greedily: [shots, new tokens]."""
        z = mix(*candidate)
        for name, one in self._factors.matrices.items():
            torch.mm(one.u * (one.s * z.values[name]), one.vh, out=self._weights[name])
        ids = torch.tensor(load.prompts)
        cache, answered = DynamicCache(), []
        for _ in range(load.new_tokens):
            logits = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids = logits[:, -1].argmax(-1, keepdim=True)
            answered.append(ids)
        return torch.cat(answered, dim=1)


@asynccontextmanager
async def _engine(form: Form, length: int) -> AsyncIterator[tuple[Engine, list[ZVector], int]]:
    """Open an engine on the base, with experts that it knows how to mix."""
    opened = open_base("eighth")
    model = SvfModel(opened.base, opened.factors)
    experts, vocabulary = random_experts(model, EXPERTS), opened.base.model.config.vocab_size
    kind = "torch" if form == "torch" else "vllm"
    vllm = VllmSpec() if form == "torch" else VllmSpec.model_validate({"cache_gib": 0.5, "form": _FORMS[form]})
    spec = EngineSpec(kind=kind, slots=SHOTS * POPULATION, max_length=length, z_rows=POPULATION + 2, vllm=vllm)
    engine = TorchEngine(model, spec) if form == "torch" else await open_engine(pack_base(find_spec("eighth")), spec)
    try:
        if form == "delta":
            await engine.choose_directions([await engine.put_z(z) for z in experts])
        yield engine, experts, vocabulary
    finally:
        await engine.close()


def _candidates(experts: Sequence[ZVector]) -> list[Candidate]:
    alphas = np.random.default_rng(0).uniform(0, 1, (POPULATION, EXPERTS))
    return [(experts, row.tolist()) for row in alphas]
