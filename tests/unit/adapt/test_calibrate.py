"""Calibration: confidences become probabilities, and thresholds keep their promise."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from zfleet.adapt.calibrate import LabelledPrompt, Wanted, calibrated, fit_temperature
from zfleet.adapt.calibration import Calibration, softmax
from zfleet.adapt.risk import COVERAGES, candidates, threshold_for_risk, upper_bound
from zfleet.adapt.scoring import Evidence, ScoringDispatcher
from zfleet.engine.contract import Engine
from zfleet.errors import DispatcherError
from zfleet.evaluate.statistics.reliability import expected_calibration_error, reliability
from zfleet.testing.fake_engine import FakeEngine

LABELS = ("a", "b", "c")


@dataclass(frozen=True, kw_only=True)
class Noisy(ScoringDispatcher):
    """Knows the true probabilities of a prompt's labels, and states them too boldly.

    Attributes:
        boldness: Multiplies the true log-probabilities.
        spread: How sure the true ones are.
    """

    kind: str = field(default="noisy", init=False)
    boldness: float = 3.0
    spread: float = 3.0

    async def evidence(self, engine: Engine, prompt: str) -> Evidence:
        weights = self.boldness * np.log(self.truth(prompt))
        novelty = 9.0 if prompt.startswith("odd") else float(_random(prompt, "novelty").random())
        return Evidence(dict(zip(LABELS, weights.tolist(), strict=True)), novelty, 5)

    def truth(self, prompt: str) -> np.ndarray:
        return softmax(_random(prompt, "truth").standard_normal(3) * self.spread, 1.0)

    def sample(self, prompt: str) -> LabelledPrompt:
        return LabelledPrompt(prompt, str(_random(prompt, "label").choice(LABELS, p=self.truth(prompt))))


def _random(prompt: str, what: str) -> np.random.Generator:
    seed = hashlib.sha256(f"{what}/{prompt}".encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(seed, "little"))


NOISY = Noisy(routes={label: {label: 1.0} for label in LABELS})


def prompts(count: int, dispatcher: Noisy = NOISY, name: str = "p") -> list[LabelledPrompt]:
    return [dispatcher.sample(f"{name} {place}") for place in range(count)]


async def test_calibration_makes_bold_confidences_right() -> None:
    engine = FakeEngine()
    fresh = prompts(2000, name="fresh")

    async def error(dispatcher: Noisy) -> float:
        decisions = [await dispatcher.decide(engine, one.prompt) for one in fresh]
        right = [d.label == one.label for d, one in zip(decisions, fresh, strict=True)]
        return expected_calibration_error([d.confidence for d in decisions], right)

    (calibration,), facts = await calibrated([NOISY], engine, prompts(800), Wanted(risk=0.1))
    assert calibration.temperature == pytest.approx(NOISY.boldness, rel=0.15)
    assert await error(NOISY) > 0.1
    assert await error(replace(NOISY, calibration=calibration.model_copy(update={"limit": None}))) < 0.05
    assert facts.ece < 0.08, "few prompts in a bin alone give an error of some points"
    assert (facts.prompts, facts.labels, facts.risk_asked) == (800, LABELS, 0.1)
    assert 350 < facts.measured < 450
    await engine.close()


async def test_decided_prompts_have_the_risk_that_was_asked_for() -> None:
    engine = FakeEngine()
    (calibration,), facts = await calibrated([NOISY], engine, prompts(1500), Wanted(risk=0.1))
    assert calibration.threshold is not None
    assert facts.risk is not None
    assert facts.risk_at_most is not None
    assert facts.risk <= facts.risk_at_most <= 0.1
    assert 0.1 < facts.coverage < 1
    dispatcher = replace(NOISY, calibration=calibration)
    fresh = prompts(3000, name="fresh")
    decided = [(one, d) for one in fresh if (d := await dispatcher.decide(engine, one.prompt)).mixture]
    wrong = sum(d.label != one.label for one, d in decided)
    assert wrong / len(decided) <= 0.1
    assert len(decided) / len(fresh) == pytest.approx(facts.coverage, abs=0.06)
    await engine.close()


async def test_hopeless_confidences_decide_nothing() -> None:
    guessing = replace(NOISY, spread=0.05)
    engine = FakeEngine()
    (calibration,), facts = await calibrated([guessing], engine, prompts(400, guessing), Wanted(risk=0.05))
    assert calibration.threshold is None
    assert (facts.coverage, facts.risk, facts.risk_at_most) == (0.0, None, None)
    decision = await replace(guessing, calibration=calibration).decide(engine, "p 1")
    assert decision.mixture == {}
    await engine.close()


async def test_a_later_step_is_calibrated_on_what_the_first_leaves_over() -> None:
    engine = FakeEngine()
    asked: list[list[str]] = [[], []]

    @dataclass(frozen=True, kw_only=True)
    class Step(Noisy):
        place: int

        async def evidence(self, engine: Engine, prompt: str) -> Evidence:
            asked[self.place].append(prompt)
            return await super().evidence(engine, prompt)

    steps = [Step(routes=NOISY.routes, place=0), Step(routes=NOISY.routes, place=1)]
    alone, _ = await calibrated(steps[:1], engine, prompts(1200), Wanted(risk=0.1))
    asked[0].clear()
    found, facts = await calibrated(steps, engine, prompts(1200), Wanted(risk=0.1))
    assert len(asked[0]) == 1200
    first = replace(NOISY, calibration=found[0])
    left = [one.prompt for one in prompts(1200) if not (await first.decide(engine, one.prompt)).mixture]
    assert asked[1] == left
    # Half of the 5 % that may go wrong belongs to each step, so the first is as strict as alone or stricter.
    assert (found[0].threshold or 1.0) >= (alone[0].threshold or 1.0)
    assert facts.measured < 1200
    await engine.close()


async def test_a_later_step_that_nothing_is_left_for_never_decides() -> None:
    sure = replace(NOISY, spread=30.0)
    engine = FakeEngine()
    recognised = [one for one in prompts(900, sure) if (await sure.evidence(engine, one.prompt)).novelty < 0.9]
    found, facts = await calibrated([sure, sure], engine, recognised, Wanted(risk=0.05))
    assert found[0].threshold == 0.0
    assert facts.coverage > 0.95
    assert found[1].threshold is None
    await engine.close()


async def test_strange_prompts_are_not_recognised_and_usual_ones_are() -> None:
    engine = FakeEngine()
    (calibration,), facts = await calibrated([NOISY], engine, prompts(1000), Wanted())
    dispatcher = replace(NOISY, calibration=calibration)
    usual = [await dispatcher.decide(engine, f"fresh {place}") for place in range(1000)]
    strange = [await dispatcher.decide(engine, f"odd {place}") for place in range(50)]
    assert {decision.label for decision in strange} == {None}
    assert sum(decision.label is None for decision in usual) / 1000 <= facts.strange_at_most < 0.06
    await engine.close()


async def test_the_data_digest_names_the_prompts_whatever_their_order() -> None:
    engine = FakeEngine()
    _, facts = await calibrated([NOISY], engine, prompts(200), Wanted())
    _, same = await calibrated([NOISY], engine, prompts(200)[::-1] + prompts(20), Wanted())
    _, other = await calibrated([NOISY], engine, prompts(201), Wanted())
    assert facts.data_digest == same.data_digest != other.data_digest
    assert same.prompts == 200, "a prompt that is given twice counts once"
    await engine.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([*prompts(50), LabelledPrompt("q", "z")], "label 'z', which is unknown"),
        ([*prompts(50), LabelledPrompt("q", "a"), LabelledPrompt("q", "b")], "labels 'a' and 'b'"),
        (prompts(39), "39 distinct validation prompts"),
        ([LabelledPrompt(f"p {place}", "a") for place in range(50)], "no validation prompt has the label b, c"),
    ],
)
async def test_prompts_that_cannot_calibrate_are_refused(wrong: list[LabelledPrompt], message: str) -> None:
    engine = FakeEngine()
    with pytest.raises(DispatcherError, match=message):
        await calibrated([NOISY], engine, wrong, Wanted())
    await engine.close()


@given(st.floats(0.1, 10.0))
@settings(max_examples=20, deadline=None)
def test_the_temperature_is_found(boldness: float) -> None:
    bold = replace(NOISY, boldness=boldness)
    pairs = []
    for place in range(400):
        one = bold.sample(f"t {place}")
        weights = boldness * np.log(bold.truth(one.prompt))
        pairs.append((one, Evidence(dict(zip(LABELS, weights.tolist(), strict=True)), 0.0, 1)))
    assert fit_temperature(pairs) == pytest.approx(boldness, rel=0.3)


def test_one_temperature_is_the_softmax_and_a_high_one_is_flat() -> None:
    weights = {"a": math.log(0.7), "b": math.log(0.2), "c": math.log(0.1)}
    assert Calibration().probabilities(weights) == pytest.approx({"a": 0.7, "b": 0.2, "c": 0.1})
    flat = Calibration(temperature=1e6).probabilities(weights)
    assert flat == pytest.approx(dict.fromkeys("abc", 1 / 3), rel=1e-5)


def test_the_expected_calibration_error_by_hand() -> None:
    # Two bins of ten: (.95, .95 | right, wrong) and (.55 | right). |.5 - .95| 2/3 + |1 - .55| 1/3.
    confidences, right = [0.95, 0.95, 0.55], [True, False, True]
    assert expected_calibration_error(confidences, right, bins=10) == pytest.approx(0.45 * 2 / 3 + 0.45 / 3)
    low, high = reliability(confidences, right, bins=10)
    assert (low.low, low.high, low.n, low.accuracy) == (0.5, 0.6, 1, 1.0)
    assert (high.n, high.accuracy) == (2, 0.5)
    assert (low.confidence, high.confidence) == pytest.approx((0.55, 0.95))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_bins_hold_every_decision_once(pairs: list[tuple[float, bool]], bins: int) -> None:
    confidences, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = reliability(confidences, right, bins)
    assert sum(one.n for one in found) == len(pairs)
    assert all(one.low - 1e-9 <= one.confidence <= one.high + 1e-9 for one in found)
    error = expected_calibration_error(confidences, right, bins)
    assert 0 <= error <= 1
    gap = abs(sum(right) / len(right) - sum(confidences) / len(confidences))
    assert error >= gap - 1e-9, "bins can only add to the error of all together"


def test_clopper_and_pearsons_bound_has_known_values() -> None:
    assert upper_bound(0, 59, 0.95) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_bound(3, 3, 0.95) == 1.0
    # Their defining equation: P(X <= 4 | n = 50, p = the bound) = .05.
    assert stats.binom.cdf(4, 50, upper_bound(4, 50, 0.95)) == pytest.approx(0.05)


@given(st.floats(0.001, 0.999), st.integers(1, 200), st.sampled_from([0.9, 0.95, 0.99]))
@settings(deadline=None)
def test_clopper_and_pearsons_bound_covers_exactly(p: float, n: int, certainty: float) -> None:
    counts = np.arange(n + 1)
    covered = [upper_bound(count, n, certainty) >= p for count in counts.tolist()]
    assert stats.binom.pmf(counts, n, p)[covered].sum() >= certainty - 1e-9


def test_the_threshold_keeps_its_promise_in_simulation() -> None:
    """Confidence c is uniform on [.5, 1] and right with probability c^2: bold, and the true risk is known."""
    wanted = Wanted(risk=0.15, certainty=0.9)
    broken = found = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        first, second = rng.uniform(0.5, 1, (2, 1500))
        right = rng.random(1500) < second**2
        chosen = threshold_for_risk(
            candidates(first.tolist()), second.tolist(), right.tolist(), wanted.risk, wanted.certainty
        )
        if chosen is not None:
            found += 1
            low = max(chosen.least, 0.5)
            # Mean of c^2 over [low, 1].
            broken += 1 - (1 - low**3) / (3 * (1 - low)) > wanted.risk
    assert found > 100
    assert broken / 400 <= 1 - wanted.certainty


def test_a_lower_risk_never_lowers_the_threshold() -> None:
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.3, 1, 600)
    right = (rng.random(600) < confidences).tolist()
    among = candidates(rng.uniform(0.3, 1, 600).tolist())
    assert len(among) == len(COVERAGES)
    chosen = [threshold_for_risk(among, confidences.tolist(), right, risk, 0.95) for risk in (0.05, 0.1, 0.2, 0.4)]
    least = [2.0 if one is None else one.least for one in chosen]
    assert least == sorted(least, reverse=True)
    assert least[-1] < least[0]
