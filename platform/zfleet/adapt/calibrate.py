"""Calibrate dispatchers on labelled prompts: temperature, what is recognised, and a threshold for a wanted risk.

Prompts are split in two by their digests. The first half gives the temperature and the candidates for the threshold;
the second half chooses among these and is what the facts are measured on. The limit of novelty is an order statistic of
all: given its value, the prompts below it are distributed as all usual prompts below it, so that bounds hold.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar

from zfleet.adapt.calibration import Calibration, Facts, softmax
from zfleet.adapt.contract import Decision
from zfleet.adapt.risk import candidates, threshold_for_risk, upper_bound
from zfleet.adapt.scoring import Evidence, ScoringDispatcher
from zfleet.engine.contract import Engine
from zfleet.errors import DispatcherError
from zfleet.evaluate.statistics.reliability import expected_calibration_error

LEAST_PROMPTS = 40
"""The fewest validation prompts. To show a risk of .05 takes about 250, of which half choose the threshold."""
STRANGE = 0.02
"""The fraction of usual prompts that are not recognised."""
DRIFT_CERTAINTY = 0.999
"""The probability with which ``Facts.strange_at_most`` holds: an alarm must not come from unlucky calibration."""
_TEMPERATURES = (0.05, 20.0)
"""Bounds of the temperature: prompts that are all right would make it 0."""


@dataclass(frozen=True)
class LabelledPrompt:
    """A validation prompt.

    Attributes:
        prompt: The text that a user would type.
        label: The right one.
    """

    prompt: str
    label: str


@dataclass(frozen=True)
class Wanted:
    """What calibration aims at.

    Attributes:
        risk: The largest fraction of wrong labels among decided prompts.
        certainty: The probability with which that holds, and the bounds in the facts.
    """

    risk: float = 0.05
    certainty: float = 0.95


async def calibrated(
    steps: Sequence[ScoringDispatcher], engine: Engine, prompts: Sequence[LabelledPrompt], wanted: Wanted
) -> tuple[tuple[Calibration, ...], Facts]:
    """Calibrate a dispatcher, or the steps of a cascade.

    A later step is calibrated on the prompts that no earlier one decides: these are what it will be asked.

    Args:
        steps: One, or those of a cascade in order. They have the same labels.
        engine: Runs their first passes.
        prompts: For validation. None may have been used to make the dispatchers.
        wanted: The risk.

    Returns:
        The calibration of each step, and what was measured of all together.

    Raises:
        DispatcherError: A label is not among the dispatcher's, a prompt has two labels, or the prompts are too few.
        UnknownZ, RequestTooLong, EngineError: As ``Dispatcher.decide``.
    """
    known = _checked(prompts, steps[0])
    # All steps together go wrong with the probability that is left, so each gets its part of it.
    each = replace(wanted, certainty=1 - (1 - wanted.certainty) / len(steps))
    found: list[Calibration] = []
    decided: dict[str, Decision] = {}
    rest = known
    for step in steps:
        evidence = await asyncio.gather(*(step.evidence(engine, one.prompt) for one in rest))
        calibration = _calibration(step, rest, evidence, each)
        found.append(calibration)
        sure = replace(step, calibration=calibration)
        decided |= {one.prompt: sure.judge(seen) for one, seen in zip(rest, evidence, strict=True)}
        rest = [one for one in rest if not _decides(calibration, decided[one.prompt])]
    facts = _facts([(one, decided[one.prompt]) for one in known], {one.prompt for one in rest}, wanted)
    return tuple(found), facts


def _checked(prompts: Sequence[LabelledPrompt], step: ScoringDispatcher) -> list[LabelledPrompt]:
    """Return the distinct prompts."""
    labels: dict[str, str] = {}
    for one in prompts:
        if one.label not in step.routes:
            raise DispatcherError(
                f"validation prompt {one.prompt[:80]!r} has the label {one.label!r}, which is unknown",
                f"use one of: {', '.join(step.routes)}",
            )
        if labels.setdefault(one.prompt, one.label) != one.label:
            raise DispatcherError(
                f"validation prompt {one.prompt[:80]!r} has the labels {labels[one.prompt]!r} and {one.label!r}",
                "leave it out, or give it one label",
            )
    if len(labels) < LEAST_PROMPTS:
        raise DispatcherError(
            f"there are {len(labels)} distinct validation prompts", f"give {LEAST_PROMPTS} or more, better 500"
        )
    if missing := sorted(set(step.routes) - set(labels.values())):
        raise DispatcherError(
            f"no validation prompt has the label {', '.join(missing)}", "give prompts of each label, or drop the label"
        )
    return [LabelledPrompt(prompt, label) for prompt, label in labels.items()]


def _in_first_half(one: LabelledPrompt) -> bool:
    return hashlib.sha256(f"calibration/{one.prompt}".encode()).digest()[0] % 2 == 0


def _decides(calibration: Calibration, decision: Decision) -> bool:
    return decision.label is not None and calibration.trusts(decision.confidence)


def _calibration(
    step: ScoringDispatcher, prompts: Sequence[LabelledPrompt], evidence: Sequence[Evidence], wanted: Wanted
) -> Calibration:
    pairs = list(zip(prompts, evidence, strict=True))
    first = [pair for pair in pairs if _in_first_half(pair[0])]
    second = [pair for pair in pairs if not _in_first_half(pair[0])]
    if not first or not second:
        # Of a later step: the others decide nearly everything.
        return Calibration(threshold=None)
    fitted = Calibration(temperature=fit_temperature(first), limit=conformal_limit([seen.novelty for seen in evidence]))
    judge = replace(step, calibration=fitted).judge
    among = candidates([decision.confidence for _, seen in first if (decision := judge(seen)).label is not None])
    recognised = [(decision, one.label) for one, seen in second if (decision := judge(seen)).label is not None]
    confidences = [decision.confidence for decision, _ in recognised]
    right = [decision.label == label for decision, label in recognised]
    chosen = threshold_for_risk(among, confidences, right, wanted.risk, wanted.certainty)
    return fitted.model_copy(update={"threshold": None if chosen is None else chosen.least})


def fit_temperature(pairs: Sequence[tuple[LabelledPrompt, Evidence]]) -> float:
    """Return the temperature with the least negative log-likelihood of the right labels (Guo et al. 2017, section 4.2).

    That is convex in 1 / temperature, so that the search finds the least one.
    """
    labels = list(pairs[0][1].log_weights)
    weights = np.array([[seen.log_weights[label] for label in labels] for _, seen in pairs])
    rows, right = np.arange(len(pairs)), np.array([labels.index(one.label) for one, _ in pairs])

    def loss(log_temperature: float) -> float:
        likelihood = softmax(weights, math.exp(log_temperature))[rows, right]
        return -float(np.log(np.maximum(likelihood, np.finfo(float).tiny)).mean())

    low, high = map(math.log, _TEMPERATURES)
    return math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def conformal_limit(novelties: Sequence[float]) -> float:
    """Return the conformal quantile: a usual prompt is above it with probability ``STRANGE`` or less.

    With fewer than 1 / ``STRANGE`` prompts it is their largest novelty. Source: Vovk et al. 2005, "Algorithmic Learning
    in a Random World", chapter 2.
    """
    rank = min(math.ceil((1 - STRANGE) * (len(novelties) + 1)), len(novelties))
    return sorted(novelties)[rank - 1]


def _facts(decisions: Sequence[tuple[LabelledPrompt, Decision]], undecided: Collection[str], wanted: Wanted) -> Facts:
    rows = sorted((one.prompt, one.label) for one, _ in decisions)
    strange = sum(decision.label is None for _, decision in decisions)
    second = [pair for pair in decisions if not _in_first_half(pair[0])]
    right = [decision.label == one.label for one, decision in second]
    held = [one.prompt not in undecided for one, _ in second]
    n, wrong = sum(held), sum(hold and not hit for hold, hit in zip(held, right, strict=True))
    return Facts(
        prompts=len(rows),
        measured=len(second),
        data_digest=hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        labels=tuple(sorted({label for _, label in rows})),
        accuracy=sum(right) / len(second),
        ece=expected_calibration_error([decision.confidence for _, decision in second], right),
        coverage=n / len(second),
        risk=wrong / n if n else None,
        risk_asked=wanted.risk,
        risk_at_most=upper_bound(wrong, n, wanted.certainty) if n else None,
        certainty=wanted.certainty,
        # An order statistic exceeds its quantile as Clopper and Pearson's bound says (Wilks 1941).
        strange_at_most=upper_bound(strange, len(rows), DRIFT_CERTAINTY),
    )
