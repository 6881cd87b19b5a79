"""The engine at a real size: many z in a batch beside transformers' ``generate`` and vLLM; prompts that are shared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hetero.statistics import estimate
from learning.opened import find_spec, open_base
from real.generation import Load, Prompt, answering, generating, random_experts, torch_engine, vllm_engine
from real.settings import Settings
from zfleet.engine.contract import ChoicesRequest, ScoreRequest
from zfleet.engine.vllm_engine.version import installed_vllm
from zfleet.models.svf_model import SvfModel
from zfleet.svf.linear import SvfLinear, merge_into

REQUESTS = 32
PROMPT_TOKENS = range(48, 48 + REQUESTS)
"""Lengths of the prompts: 64 on average, all different, as prompts are."""
NEW_TOKENS = 64

GROUP, GROUP_PROMPT, GROUP_NEW = 8, 400, 8

ASKED, ASKED_PROMPT, LABELS, LABEL_NEW = 8, 128, (1, 2, 2, 3), 8
"""Prompts at once, tokens of each; tokens of the labels that may answer it, and of an answer that is generated."""

_CACHES = ("dynamic", "static")
"""The key-value caches of ``generate``; the faster one counts."""


def engine(settings: Settings) -> dict[str, Any]:
    """Tokens a second of the engine over those of ``generate``, with 32 different z and with the base alone.

    ``engine_of_bound`` is the first over the ratio that the bytes of a decoding step set (``_bound``). Where vLLM is
    installed, ``engine_over_vllm`` compares with it, under the same z.

    Raises:
        RuntimeError: An engine's answers are not those of the merged model.
    """
    return asyncio.run(_engine(settings))


def group_prefill(settings: Settings) -> dict[str, Any]:
    """Answers a second to one prompt of 400 tokens, over those to as many prompts that differ in the first token."""
    return asyncio.run(_group_prefill(settings))


def choices(settings: Settings) -> dict[str, Any]:
    """Prompts a second whose four labels are scored together, over those with labels scored or an answer generated."""
    return asyncio.run(_choices(settings))


async def _engine(settings: Settings) -> dict[str, Any]:
    settings.tell("engine")
    opened = open_base(settings.base)
    model = SvfModel(opened.base, opened.factors)
    load = Load.of(PROMPT_TOKENS, NEW_TOKENS, int(opened.base.model.config.vocab_size))
    experts = random_experts(model, REQUESTS)
    plain, merged = open_base(settings.base).base.model, open_base(settings.base).base.model
    merge_into(merged, dict(opened.factors.matrices), dict(experts[0].values))
    length = max(PROMPT_TOKENS) + NEW_TOKENS
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(torch_engine(model, REQUESTS, length))
        digests = [await ours.put_z(z) for z in experts]
        ways = {
            **{f"generate.{cache}": generating(merged, load, cache_implementation=cache) for cache in _CACHES},
            "engine": answering(ours, load, digests),
            "engine.base": answering(ours, load),
        }
        await _check(plain, load, await ways["engine.base"]())
        await _check(merged, load, await answering(ours, load, digests[:1])())
        if installed_vllm() is not None:
            vllm = await stack.enter_async_context(vllm_engine(find_spec(settings.base), REQUESTS, length))
            for z in experts:
                await vllm.put_z(z)
            ways |= {"vllm": answering(vllm, load, digests), "vllm.base": answering(vllm, load)}
        rates = await _rounds(ways, settings.rounds, REQUESTS * NEW_TOKENS)
    return _figures(rates, _bound(model, load))


def _figures(rates: Mapping[str, list[float]], bound: float) -> dict[str, Any]:
    """Divide the rates of each round."""
    best = max(_CACHES, key=lambda cache: estimate(rates[f"generate.{cache}"]).median)
    over_generate = _ratio(rates["engine"], rates[f"generate.{best}"])
    what = f"tokens a second of the engine, {REQUESTS} z / of generate with a {best} cache on one merged model"
    figures = {
        "engine_over_generate": {"ratio": what, **over_generate, "bound": bound},
        "engine_of_bound": {
            "ratio": f"the same / {bound:.2f}, what the bytes of a decoding step allow",
            "median": over_generate["median"] / bound,
            "ci95": [end / bound for end in over_generate["ci95"]],
        },
        "engine_base_over_generate": {
            "ratio": "tokens a second of the engine, base requests / of generate",
            **_ratio(rates["engine.base"], rates[f"generate.{best}"]),
        },
    }
    if "vllm" in rates:
        for name, title in (("", f"{REQUESTS} z"), (".base", "base requests")):
            figures[f"engine_over_vllm{name}"] = {
                "ratio": f"tokens a second of the engine / of vLLM with our linears, {title}",
                **_ratio(rates[f"engine{name}"], rates[f"vllm{name}"]),
            }
    for name, values in rates.items():
        figures[f"{name} tokens/s"] = {"ratio": "tokens a second", "median": estimate(values).median}
    return figures


async def _group_prefill(settings: Settings) -> dict[str, Any]:
    settings.tell("group_prefill")
    opened = open_base(settings.base)
    model = SvfModel(opened.base, opened.factors)
    vocabulary = int(opened.base.model.config.vocab_size)
    alone = Load.of([GROUP_PROMPT] * GROUP, GROUP_NEW, vocabulary).prompts[0]
    shared = Load((alone,) * GROUP, GROUP_NEW)
    separate = Load(tuple((first, *alone[1:]) for first in range(GROUP, 2 * GROUP)), GROUP_NEW)
    async with torch_engine(model, GROUP, GROUP_PROMPT + GROUP_NEW) as ours:
        digests = [await ours.put_z(z) for z in random_experts(model, 1)]
        ways = {"shared": answering(ours, shared, digests), "separate": answering(ours, separate, digests)}
        rates = await _rounds(ways, settings.rounds, GROUP)
    what = f"answers a second to one prompt of {GROUP_PROMPT} tokens / to {GROUP} such prompts; {GROUP_NEW} new tokens"
    return {"group_prefill": {"ratio": what, **_ratio(rates["shared"], rates["separate"])}}


async def _choices(settings: Settings) -> dict[str, Any]:
    settings.tell("choices")
    opened = open_base(settings.base)
    model = SvfModel(opened.base, opened.factors)
    vocabulary = int(opened.base.model.config.vocab_size)
    load = Load.of([ASKED_PROMPT] * ASKED, LABEL_NEW, vocabulary)
    labels = Load.of(LABELS, 0, vocabulary, seed=1).prompts
    async with torch_engine(model, ASKED, ASKED_PROMPT + LABEL_NEW) as ours:
        (digest,) = [await ours.put_z(z) for z in random_experts(model, 1)]

        async def together() -> None:
            requests = [ChoicesRequest(prompt, labels, digest) for prompt in load.prompts]
            await asyncio.gather(*(ours.score_choices(request) for request in requests))

        async def apart() -> None:
            # One label after the other: those of a prompt that are there at once share it.
            for label in labels:
                await asyncio.gather(*(ours.score(ScoreRequest(prompt, label, digest)) for prompt in load.prompts))

        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "choices": together,
            "scores": apart,
            "generation": answering(ours, load, [digest]),
        }
        rates = await _rounds(ways, settings.rounds, ASKED)
    what = f"prompts of {ASKED_PROMPT} tokens a second, {len(LABELS)} labels scored together / "
    return {
        "choices_over_scores": {"ratio": what + "each alone", **_ratio(rates["choices"], rates["scores"])},
        "choices_over_generation": {
            "ratio": what + f"{LABEL_NEW} tokens generated",
            **_ratio(rates["choices"], rates["generation"]),
        },
    }


async def _rounds(
    ways: Mapping[str, Callable[[], Awaitable[object]]], rounds: int, work: int
) -> dict[str, list[float]]:
    """Run every way in each round, in an order that turns. Returns {way: [work a second of each round]}."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        await way()
    for number in range(rounds):
        for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            await way()
            rates[name].append(work / (time.perf_counter() - began))
    return rates


async def _check(model: PreTrainedModel, load: Load, answers: list[Prompt]) -> None:
    """Compare answers with the model's own.

    Raises:
        RuntimeError: Many differ: rounding moves a few tokens of a random base, whose likeliest tokens are close.
    """
    expected = await generating(model, load)()
    equal = sum(one == other for one, other in zip(answers, expected, strict=True))
    if equal < len(answers) // 2:
        raise RuntimeError(f"only {equal} of {len(answers)} answers are those of the model")


def _ratio(above: list[float], below: list[float]) -> dict[str, Any]:
    found = estimate([one / other for one, other in zip(above, below, strict=True)])
    return {"median": found.median, "ci95": [found.low, found.high], "pairs": found.samples}


def _bound(model: SvfModel, load: Load) -> float:
    """The ratio of decoding rates that memory allows: bytes of a step of the merged model over those of a factored one.

    A step reads every weight once, however many rows it has, and of each row the keys and values up to its length. For
    W [m, n] the factored form reads U s [m, r] and Vh [r, n], r = min(m, n): 1.49 times as much as W over SmolLM2's
    matrices, if all are targets. The head and the cache are the same on both sides. (Multiplications, which bind where
    many rows share a step, have the same ratio but for the cache.)
    """
    modules = list(model.base.model.modules())
    factored = [module for module in modules if isinstance(module, SvfLinear)]
    size = factored[0].vh.element_size()
    dense = sum(one.us.shape[0] * one.vh.shape[1] for one in factored) * size
    factors = sum(one.us.numel() + one.vh.numel() for one in factored) * size
    rest = sum(one.weight.numel() for one in modules if isinstance(one, nn.Linear)) * size
    config = model.base.model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    tokens = sum(len(prompt) + load.new_tokens / 2 for prompt in load.prompts)
    cache = tokens * 2 * config.num_hidden_layers * config.num_key_value_heads * head * size
    return float((dense + rest + cache) / (factors + rest + cache))
