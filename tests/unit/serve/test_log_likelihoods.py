"""What lm-evaluation-harness computes through the service is what a merged model in plain transformers computes.

A client here sends what the harness's `local-completions` sends, and reads what it reads. The harness itself, with its
tasks, is no dependency of this project.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import torch

from zfleet.config.specs import EngineSpec
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.base import load_base
from zfleet.models.svf_model import SvfModel
from zfleet.svf.factors import Factors
from zfleet.svf.linear import merge_into
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_prompts
from zfleet_serve.adaptive.experts import Experts
from zfleet_serve.adaptive.service import Service
from zfleet_serve.adaptive.settings import Served
from zfleet_serve.http.gateway import create_app
from zfleet_serve.http.tokenizer_text import TokenizerText
from zfleet_serve.testing import SLUG, FakeRegistry

Tokens = tuple[int, ...]
Found = list[tuple[float, bool]]
"""Of each choice: its log-likelihood, and whether it is the greedy answer."""

ENDINGS = (3, 1, 5, 4)


@pytest.fixture
async def client(tiny_model: SvfModel, make_z: Callable[..., ZVector]) -> AsyncIterator[httpx.AsyncClient]:
    registry = FakeRegistry()
    for place, name in enumerate(("math", "sort")):
        registry.add(name, make_z(place))
    engine = TorchEngine(tiny_model, EngineSpec(slots=8, z_rows=4))
    text = TokenizerText(tiny_model.base.tokenizer, engine.max_length)
    service = Service(engine, Experts(lambda: registry, engine, SLUG), text, Served("tiny", engine.max_length))
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://tiny") as client:
        yield client
    await engine.close()


def rows(vocabulary: int) -> list[tuple[Tokens, list[Tokens]]]:
    """Questions with four endings each."""
    contexts = random_prompts(vocabulary, [9, 30, 2, 70], seed=3)
    return [(context, random_prompts(vocabulary, ENDINGS, seed=place)) for place, context in enumerate(contexts)]


async def asked(client: httpx.AsyncClient, model: str, context: Tokens, endings: list[Tokens]) -> Found:
    body = {
        "model": model,
        "prompt": [[*context, *ending] for ending in endings],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    found = []
    for choice in sorted(response.json()["choices"], key=lambda choice: int(choice["index"])):
        values = choice["logprobs"]["token_logprobs"][len(context) : -1]
        others = choice["logprobs"]["top_logprobs"][len(context) : -1]
        greedy = all(value == max(other.values()) for value, other in zip(values, others, strict=True))
        found.append((sum(values), greedy))
    return found


@torch.no_grad()
def computed(model: torch.nn.Module, context: Tokens, endings: list[Tokens]) -> Found:
    found = []
    for ending in endings:
        logits = model(input_ids=torch.tensor([[*context, *ending]])).logits[0, len(context) - 1 : -1]
        targets = torch.tensor(ending)
        values = logits.log_softmax(-1)[torch.arange(len(ending)), targets]
        found.append((float(values.sum()), bool((logits.argmax(-1) == targets).all())))
    return found


async def test_choices_are_those_of_merged_models_for_two_z_at_once(
    client: httpx.AsyncClient, tiny_folder: Path, tiny_factors: Factors, make_z: Callable[..., ZVector]
) -> None:
    base = load_base(tiny_folder).model
    merged = {}
    for place, name in enumerate(("math", "sort")):
        merged[f"tiny:{name}"] = copy.deepcopy(base)
        merge_into(merged[f"tiny:{name}"], dict(tiny_factors.matrices), dict(make_z(place).values))
    questions = rows(base.config.vocab_size)
    # One ending that is the greedy answer, under one of both z alone.
    context, endings = questions[0]
    with torch.no_grad():
        best = int(merged["tiny:math"](input_ids=torch.tensor([context])).logits[0, -1].argmax())
    endings[1] = (best,)
    names = [(name, *question) for question in questions for name in merged]
    answers = await asyncio.gather(*(asked(client, *one) for one in names))
    expected = [computed(merged[name], context, endings) for name, context, endings in names]
    for found, right in zip(answers, expected, strict=True):
        assert [value for value, _ in found] == pytest.approx([value for value, _ in right], abs=1e-3)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in right]
        assert found.index(max(found)) == right.index(max(right))
    assert any(greedy for found in answers for _, greedy in found)
    plain = [computed(base, context, endings) for _, context, endings in names]
    assert (
        max(
            abs(a - b)
            for one, other in zip(plain, expected, strict=True)
            for (a, _), (b, _) in zip(one, other, strict=True)
        )
        > 0.1
    )
