"""The dispatcher that compares a prompt with known ones, and learns labels at run time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from zfleet.adapt.calibration import Calibration
from zfleet.adapt.contract import Dispatcher
from zfleet.adapt.examples import Examples
from zfleet.adapt.nearest import NearestDispatcher, hidden_states
from zfleet.errors import DispatcherError
from zfleet.testing.dispatcher_conformance import KINDS_OF_WORDS, STRANGE, DispatcherConformance, answers, prompts_of
from zfleet.testing.fake_engine import FakeEngine, fake_tokens
from zfleet.testing.words_engine import WordsEngine

LIMIT = 1.25


async def nearest(engine: FakeEngine, labels: tuple[str, ...] = tuple(KINDS_OF_WORDS)) -> NearestDispatcher:
    states = {label: await hidden_states(engine, fake_tokens, prompts_of(label)) for label in labels}
    return NearestDispatcher(
        routes={label: {f"{label}-expert": 1.0} for label in labels},
        calibration=Calibration(limit=LIMIT),
        render=fake_tokens,
        examples=Examples.from_states(states),
    )


class TestNearestDispatcher(DispatcherConformance):
    kind = "nearest"

    async def make_dispatcher(self, engine: WordsEngine) -> Dispatcher:
        return await nearest(engine)


@pytest.fixture
async def engine() -> AsyncIterator[WordsEngine]:
    engine = WordsEngine(answers)
    yield engine
    await engine.close()


async def test_a_label_is_learned_from_twenty_prompts_and_the_others_stay(engine: WordsEngine) -> None:
    old = await nearest(engine, ("add", "sort"))
    flips = prompts_of("flip")
    before = [await old.decide(engine, prompt) for prompt in flips[20:]]
    assert {decision.label for decision in before} == {None}, "flips are strange before they are learned"
    new = await old.learned(engine, "flip", flips[:20], {"flip-expert": 1.0})
    after = [await new.decide(engine, prompt) for prompt in flips[20:]]
    assert [decision.mixture for decision in after] == [{"flip-expert": 1.0}] * len(after)
    for label in ("add", "sort"):
        for prompt in prompts_of(label):
            was, now = await old.decide(engine, prompt), await new.decide(engine, prompt)
            assert (was.label, was.mixture) == (now.label, now.mixture) == (label, {f"{label}-expert": 1.0})
    assert {(await new.decide(engine, prompt)).label for prompt in STRANGE} == {None}
    assert old.routes.keys() == {"add", "sort"}, "the old dispatcher is as it was"


async def test_what_cannot_be_learned_is_refused(engine: WordsEngine) -> None:
    dispatcher = await nearest(engine, ("add", "sort"))
    flips = prompts_of("flip")
    with pytest.raises(DispatcherError, match="'add' is there already"):
        await dispatcher.learned(engine, "add", flips, {"x": 1.0})
    with pytest.raises(DispatcherError, match="4 examples"):
        await dispatcher.learned(engine, "flip", flips[:4], {"x": 1.0})
    with pytest.raises(DispatcherError, match="same prompt twice"):
        await dispatcher.learned(engine, "flip", flips[:1] * 20, {"x": 1.0})


async def test_labels_and_examples_must_match(engine: WordsEngine) -> None:
    dispatcher = await nearest(engine, ("add", "sort"))
    with pytest.raises(DispatcherError, match="labels flip, sort"):
        NearestDispatcher(routes={"add": {}, "flip": {}}, render=fake_tokens, examples=dispatcher.examples)
