"""How often each form chooses the token that the merged model of its expert chooses."""

from __future__ import annotations

import asyncio
import copy

import torch

from hetero.base import base_spec
from hetero.client import Ask
from hetero.fleet import FleetVllm, experts_of, open_fleet
from hetero.settings import DELTA_ERROR, DELTA_RANK, Settings
from zfleet.config.specs import DeltaSpec
from zfleet.models.base import load_base
from zfleet.models.bundle import pack_base
from zfleet.svf.linear import merge_into

_EXPERTS, _PROMPTS, _TOKENS = 8, 4, 24

FORMS = {"exact64": None, "rank64": DeltaSpec(rank=DELTA_RANK), "error64": DeltaSpec(error=DELTA_ERROR)}


async def agreement(settings: Settings) -> dict[str, float]:
    """Compare greedy answers of the first experts to a few prompts with the merged models'.

    Returns:
        {configuration: the share of tokens that the merged model would choose as well, given what went before}.
    """
    prompts = settings.load.prompts(_PROMPTS, "agreement")
    asks = [Ask(prompt, expert) for expert in range(_EXPERTS) for prompt in prompts]
    answers: dict[str, list[tuple[int, ...]]] = {}
    for form, delta in FORMS.items():
        side = await open_fleet(settings, targets="all", experts=64, rows=64, delta=delta)
        try:
            answers[form] = list(await asyncio.gather(*(_answer(side, ask) for ask in asks)))
        finally:
            await side.close()
    return await asyncio.to_thread(_compare, settings, asks, answers)


async def _answer(side: FleetVllm, ask: Ask) -> tuple[int, ...]:
    return await side.tokens(ask, _TOKENS)


@torch.no_grad()
def _compare(settings: Settings, asks: list[Ask], answers: dict[str, list[tuple[int, ...]]]) -> dict[str, float]:
    bundle = pack_base(base_spec(settings.shape, settings.folder, "all"))
    factors = bundle.open().factors
    base, experts = load_base(settings.folder).model, experts_of(settings, bundle, 64)
    equal = dict.fromkeys(answers, 0)
    for expert in range(_EXPERTS):
        merged = copy.deepcopy(base)
        merge_into(merged, dict(factors.matrices), dict(experts[expert].values))
        for form, given in answers.items():
            for ask, answer in zip(asks, given, strict=True):
                if ask.expert == expert:
                    ids = torch.tensor([[*ask.prompt, *answer]])
                    chosen = merged(input_ids=ids).logits[0, len(ask.prompt) - 1 : -1].argmax(-1)
                    equal[form] += int((chosen == torch.tensor(answer)).sum())
    return {form: count / (len(asks) * _TOKENS) for form, count in equal.items()}
