"""Mixtures that are bound to tasks, and cascades of dispatchers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from zfleet.adapt.asking import AskingDispatcher
from zfleet.adapt.calibration import Calibration
from zfleet.adapt.cascade import CascadeDispatcher, CascadeStep, for_task
from zfleet.adapt.contract import Decision, Dispatcher
from zfleet.adapt.few_shot import FewShotDispatcher
from zfleet.engine.contract import Engine
from zfleet.errors import DispatcherError
from zfleet.testing.dispatcher_conformance import (
    CLASSIFIER,
    KINDS_OF_WORDS,
    DispatcherConformance,
    prompts_of,
)
from zfleet.testing.fake_engine import FakeEngine, fake_tokens
from zfleet.testing.words_engine import WordsEngine

ROUTES = {label: {f"{label}-expert": 1.0} for label in KINDS_OF_WORDS}


def few_shot() -> FewShotDispatcher:
    return FewShotDispatcher({"exam": {"add-expert": 0.75, "sort-expert": (0.5, 0.25)}, "quiz": {"flip-expert": 1.0}})


class TestFewShotDispatcher(DispatcherConformance):
    """Every prompt is of the task that was named."""

    kind = "few_shot"
    known = dict.fromkeys(("one prompt", "another"), "flip")
    strange = ()
    asks_engine = False

    async def make_dispatcher(self, engine: WordsEngine) -> Dispatcher:
        return FewShotDispatcher({"flip": {"flip-expert": 1.0}}).for_task("flip")


class TestFewShotDispatcherWithoutATask(DispatcherConformance):
    """The base answers requests that name no task."""

    kind = "few_shot"
    known: Mapping[str, str] = MappingProxyType({})
    strange = ("one prompt", "another")
    asks_engine = False

    async def make_dispatcher(self, engine: WordsEngine) -> Dispatcher:
        return FewShotDispatcher({"flip": {"flip-expert": 1.0}})

    def _check(self, decision: Decision) -> None:
        assert (decision.mixture, decision.confidence, decision.prompt_tokens) == ({}, 0.0, 0)


class TestCascadeDispatcher(DispatcherConformance):
    """The base is asked first; as a rule it is not sure enough."""

    kind = "cascade"

    async def make_dispatcher(self, engine: WordsEngine) -> Dispatcher:
        unsure = Calibration(temperature=100.0, threshold=0.9)
        first = AskingDispatcher(kind="prompt", routes=ROUTES, render=fake_tokens, calibration=unsure)
        second = AskingDispatcher(
            kind="classifier",
            routes=ROUTES,
            render=fake_tokens,
            z_digest=CLASSIFIER.digest,
            calibration=Calibration(limit=0.5),
        )
        return CascadeDispatcher([CascadeStep(first, 0.9), CascadeStep(second, 0.0)])


async def test_a_task_has_its_mixture_and_full_confidence() -> None:
    engine = FakeEngine()
    decision = await few_shot().for_task("exam").decide(engine, "any prompt")
    assert decision.mixture == {"add-expert": 0.75, "sort-expert": (0.5, 0.25)}
    assert (decision.label, decision.confidence) == ("exam", 1.0)
    assert decision.probabilities == {"exam": 1.0, "quiz": 0.0}
    await engine.close()


def test_a_task_that_nothing_is_bound_to_is_named_with_those_that_are_there() -> None:
    with pytest.raises(DispatcherError, match=r"task 'lost'.*exam, quiz"):
        few_shot().for_task("lost")
    with pytest.raises(DispatcherError, match="no tasks"):
        FewShotDispatcher({})


class Fixed:
    """Always decides the same, and counts how often it is asked."""

    kind = "fixed"

    def __init__(self, label: str | None, confidence: float, tokens: int) -> None:
        mixture = {label: 1.0} if label else {}
        self._decision = Decision("fixed", mixture, confidence, label, {"a": 0.5, "b": 0.5}, f"says {label}", tokens)
        self.asked = 0

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        self.asked += 1
        return self._decision


@pytest.mark.parametrize(
    ("first", "least", "method_tokens", "label"),
    [
        (Fixed("a", 0.9, 3), 0.8, 3, "a"),
        (Fixed("a", 0.8, 3), 0.8, 3, "a"),
        (Fixed("a", 0.79, 3), 0.8, 10, "b"),
        (Fixed("a", 1.0, 3), None, 10, "b"),
        (Fixed(None, 0.0, 3), 0.0, 10, "b"),
    ],
)
async def test_the_next_step_is_asked_only_below_a_confidence(
    first: Fixed, least: float | None, method_tokens: int, label: str
) -> None:
    engine, second = FakeEngine(), Fixed("b", 0.6, 7)
    decision = await CascadeDispatcher([CascadeStep(first, least), CascadeStep(second, 0.9)]).decide(engine, "p")
    assert (decision.method, decision.label, decision.prompt_tokens) == ("cascade", label, method_tokens)
    assert second.asked == (label == "b")
    assert decision.reason == ("says a" if label == "a" else f"{first._decision.reason}; says b")
    await engine.close()


async def test_a_cascade_may_begin_with_the_task_that_a_request_names() -> None:
    engine = FakeEngine()
    cascade = CascadeDispatcher([CascadeStep(few_shot(), 1.0), CascadeStep(Fixed("b", 0.6, 7), 0.0)])
    assert (await cascade.decide(engine, "p")).label == "b"
    named = await for_task(cascade, "quiz").decide(engine, "p")
    assert (named.label, named.mixture, named.prompt_tokens) == ("quiz", {"flip-expert": 1.0}, 0)
    with pytest.raises(DispatcherError, match="'lost'"):
        for_task(cascade, "lost")
    other = Fixed("a", 1.0, 1)
    assert for_task(other, "quiz") is other
    await engine.close()


def test_a_cascade_has_two_steps_or_more() -> None:
    with pytest.raises(DispatcherError, match="1 steps"):
        CascadeDispatcher([CascadeStep(few_shot(), 1.0)])


def test_prompts_of_the_suite_are_all_different() -> None:
    every = [prompt for label in KINDS_OF_WORDS for prompt in prompts_of(label)]
    assert len(every) == len(set(every)) == 90
