"""Dispatchers, and the second pass under what they chose, over the fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from zfleet.adapt.dispatch import ClassifierDispatcher, PromptDispatcher, Routes
from zfleet.config.specs import DISPATCH_PROMPT
from zfleet.engine.contract import BASE_Z, GenerationRequest, SamplingParams, collect
from zfleet.errors import UnknownZ
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z

KIND, MATH = fake_z(1), fake_z(2)
ROUTES = Routes({"math", "sort"}, {"add": "math", "lost": "gone"})
SAMPLING = SamplingParams(temperature=0, max_tokens=30)


def script(prompt: str, z: str) -> str:
    """The classifier knows; the base guesses wrong; everyone else says who they are."""
    if prompt.startswith("kind? "):
        return prompt.split()[1] + ("" if z == KIND.digest else "ish")
    return {BASE_Z: "base", MATH.digest: "math"}[z] + ":" + prompt


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(script)
    await engine.put_z(KIND)
    await engine.put_z(MATH)
    yield engine
    await engine.close()


def classifier(question: str = DISPATCH_PROMPT) -> ClassifierDispatcher:
    return ClassifierDispatcher(ROUTES, fake_tokens, KIND.digest, question)


async def two_passes(engine: FakeEngine, prompt: str) -> str:
    decision = await classifier().decide(engine, prompt)
    assert decision.expert in ("math", None)
    z = BASE_Z if decision.expert is None else MATH.digest
    (completion,) = await collect(engine, GenerationRequest(prompt, SAMPLING, z))
    return completion.text


async def test_the_classifier_asks_its_expert(engine: FakeEngine) -> None:
    decision = await classifier().decide(engine, "add 1 2")
    assert (decision.method, decision.label, decision.expert) == ("classifier", "add", "math")
    assert "'add'" in decision.reason


async def test_the_prompt_dispatcher_asks_the_base(engine: FakeEngine) -> None:
    routes = Routes({"math"}, {"addish": "math"})
    decision = await PromptDispatcher(routes, fake_tokens).decide(engine, "add 1 2")
    assert (decision.method, decision.label, decision.expert) == ("prompt", "addish", "math")


@pytest.mark.parametrize(("prompt", "named"), [("weather now", "of that name"), ("lost key", "'gone'")])
async def test_what_names_no_expert_is_the_bases(engine: FakeEngine, prompt: str, named: str) -> None:
    decision = await classifier().decide(engine, prompt)
    assert decision.expert is None
    assert named in decision.reason
    assert decision.reason.endswith("base")


async def test_braces_in_a_prompt_are_text(engine: FakeEngine) -> None:
    assert (await classifier("kind? {prompt} {x}").decide(engine, "{0}{y} 1")).label == "{0}{y}"


async def test_many_prompts_at_once_are_each_answered_under_their_own_choice(engine: FakeEngine) -> None:
    prompts = [f"{'add' if i % 2 else 'rain'} {i}" for i in range(20)]
    answers = await asyncio.gather(*(two_passes(engine, prompt) for prompt in prompts))
    assert answers == [f"{'math' if i % 2 else 'base'}:{prompt}" for i, prompt in enumerate(prompts)]
    assert (await engine.stats()).peak_batch > 4


async def test_a_classifier_that_the_engine_does_not_know_is_an_error(engine: FakeEngine) -> None:
    with pytest.raises(UnknownZ):
        await ClassifierDispatcher(ROUTES, fake_tokens, "0" * 64).decide(engine, "add 1 2")
