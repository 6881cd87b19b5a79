"""Dispatchers that ask a model: they score the allowed labels, and generate nothing."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfleet.adapt.asking import GRID, AskingDispatcher, blended
from zfleet.adapt.calibration import Calibration
from zfleet.adapt.contract import Dispatcher
from zfleet.adapt.examples import Examples
from zfleet.adapt.nearest import hidden_states
from zfleet.engine.contract import BASE_Z, ChoicesRequest
from zfleet.errors import DispatcherError, EngineError, UnknownZ
from zfleet.testing.dispatcher_conformance import (
    CLASSIFIER,
    KINDS_OF_WORDS,
    DispatcherConformance,
    answers,
    prompts_of,
)
from zfleet.testing.fake_engine import FakeEngine, fake_tokens, fake_z
from zfleet.testing.words_engine import WordsEngine

ROUTES = {label: {f"{label}-expert": 1.0} for label in KINDS_OF_WORDS}
SURE = Calibration(limit=0.5)
"""Recognises a prompt if its answer is probably one of the labels."""


def asking(routes: Mapping[str, Mapping[str, float]] = ROUTES, **settings: object) -> AskingDispatcher:
    settings = {"kind": "classifier", "z_digest": CLASSIFIER.digest, "calibration": SURE, **settings}
    return AskingDispatcher(routes=routes, render=fake_tokens, **settings)  # type: ignore[arg-type]


class TestPromptDispatcher(DispatcherConformance):
    kind = "prompt"

    async def make_dispatcher(self, engine: WordsEngine) -> Dispatcher:
        return asking(kind="prompt", z_digest=BASE_Z)


class TestClassifierDispatcher(DispatcherConformance):
    kind = "classifier"

    async def make_dispatcher(self, engine: WordsEngine) -> Dispatcher:
        return asking()


class TestSoftDispatcher(DispatcherConformance):
    kind = "soft"

    async def make_dispatcher(self, engine: WordsEngine) -> Dispatcher:
        return asking(kind="soft")


class TestClassifierWithExamples(DispatcherConformance):
    """It tells strange prompts by their hidden states; the classifier alone would take any word for a label."""

    kind = "classifier"

    async def make_dispatcher(self, engine: WordsEngine) -> Dispatcher:
        states = {label: await hidden_states(engine, fake_tokens, prompts_of(label)) for label in KINDS_OF_WORDS}
        return asking(examples=Examples.from_states(states), calibration=Calibration(limit=1.4))


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    engine = WordsEngine(answers)
    await engine.put_z(CLASSIFIER)
    yield engine
    await engine.close()


class Scripted(WordsEngine):
    """Gives every completion the same scores, and notes what it is asked."""

    def __init__(self, *scores: float) -> None:
        super().__init__(answers)
        self.scores = scores
        self.asked: list[ChoicesRequest] = []

    async def score_choices(self, request: ChoicesRequest) -> tuple[tuple[float, ...], ...]:
        self.asked.append(request)
        return tuple(self.scores for _ in request.completions)


async def test_the_question_is_asked_once_and_costs_its_tokens_and_the_labels() -> None:
    engine = Scripted(-1.0, -2.0)
    decision = await asking(question="which of {these} is {prompt}?").decide(engine, "a {prompt} b")
    (request,) = engine.asked
    assert request.prompt == fake_tokens("which of {these} is a {prompt} b?")
    assert request.z_digest == CLASSIFIER.digest
    assert request.completions == tuple(ROUTES)
    assert decision.prompt_tokens == len(request.prompt) + 2 * len(ROUTES)
    assert decision.probabilities == pytest.approx(dict.fromkeys(ROUTES, 1 / 3))
    await engine.close()


async def test_a_classifier_that_the_engine_does_not_know_is_an_error(engine: FakeEngine) -> None:
    with pytest.raises(UnknownZ):
        await asking(z_digest=fake_z(7).digest).decide(engine, "add 1 2")


async def test_below_the_threshold_the_base_answers(engine: FakeEngine) -> None:
    sure = asking(calibration=Calibration(threshold=0.9))
    decision = await sure.decide(engine, "add 1 2")
    assert decision.mixture == {"add-expert": 1.0}
    unsure = replace(sure, calibration=Calibration(temperature=100.0, threshold=0.9))
    decision = await unsure.decide(engine, "add 1 2")
    assert (decision.label, decision.mixture) == ("add", {})
    assert 0.34 < decision.confidence < 0.9
    assert decision.reason.endswith("less than 0.90: base")
    never = await replace(sure, calibration=Calibration(threshold=None)).decide(engine, "add 1 2")
    assert (never.label, never.mixture) == ("add", {})


async def test_a_label_may_be_left_to_the_base_on_purpose(engine: FakeEngine) -> None:
    decision = await asking({"add": {}, "sort": {"sort-expert": 1.0}}).decide(engine, "add 1 2")
    assert (decision.label, decision.mixture) == ("add", {})
    assert decision.confidence > 0.9
    assert decision.reason.endswith("base")


async def test_the_longer_of_two_labels_is_told_from_its_beginning(engine: FakeEngine) -> None:
    routes: dict[str, dict[str, float]] = {"add": {"one": 1.0}, "add-all": {"two": 1.0}, "sort": {"three": 1.0}}
    for prompt, expert in {"add 1": "one", "add-all 1": "two", "sort 1": "three"}.items():
        decision = await asking(routes).decide(engine, prompt)
        assert decision.mixture == {expert: 1.0}
        assert decision.confidence > 0.9


async def test_scores_that_are_no_numbers_are_an_error() -> None:
    engine = Scripted(math.nan)
    with pytest.raises(EngineError, match="nan"):
        await asking().decide(engine, "add 1 2")
    await engine.close()


async def test_labels_that_are_impossible_are_not_recognised() -> None:
    engine = Scripted(-math.inf)
    decision = await asking().decide(engine, "add 1 2")
    assert (decision.label, decision.mixture) == (None, {})
    assert sum(decision.probabilities.values()) == pytest.approx(1)
    await engine.close()


def test_a_dispatcher_without_labels_is_refused() -> None:
    with pytest.raises(DispatcherError, match="no labels"):
        asking({})


async def test_soft_mixes_by_probability(engine: FakeEngine) -> None:
    warm = asking(kind="soft", calibration=Calibration(temperature=100.0, limit=0.5))
    decision = await warm.decide(engine, "add 1 2")
    assert set(decision.mixture) == {"add-expert", "sort-expert", "flip-expert"}
    for label, probability in decision.probabilities.items():
        alpha = decision.mixture[f"{label}-expert"]
        assert isinstance(alpha, float)
        assert abs(alpha - probability) < 1 / GRID
    assert sum(alpha for alpha in decision.mixture.values() if isinstance(alpha, float)) == pytest.approx(1)
    assert (await replace(warm, kind="classifier").decide(engine, "add 1 2")).mixture == {"add-expert": 1.0}


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12))
def test_rounded_alphas_are_near_the_probabilities_and_sum_to_1(weights: list[float]) -> None:
    total = math.fsum(weights)
    probabilities = {f"l{place}": weight / total for place, weight in enumerate(weights)}
    routes = {label: {label: 1.0} for label in probabilities}
    alphas = {label: float(alpha) for label, alpha in blended(routes, probabilities).items()}  # type: ignore[arg-type]
    assert math.isclose(math.fsum(alphas.values()), 1.0)
    for label, probability in probabilities.items():
        assert abs(alphas.get(label, 0.0) - probability) <= 1 / GRID + 1e-9
        assert math.isclose(alphas.get(label, 0.0) * GRID, round(alphas.get(label, 0.0) * GRID), abs_tol=1e-9)


def test_labels_of_one_expert_add_up_also_by_layer() -> None:
    routes: dict[str, dict[str, float | tuple[float, ...]]] = {
        "a": {"x": 1.0},
        "b": {"x": (0.0, 2.0), "y": 0.5},
        "c": {},
    }
    mixed = blended(routes, {"a": 0.5, "b": 0.25, "c": 0.25})
    assert mixed == {"x": (0.5, 1.0), "y": 0.125}
