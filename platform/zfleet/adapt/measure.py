"""Measure a dispatcher on labelled prompts that it was not calibrated on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from zfleet.adapt.calibrate import LabelledPrompt
from zfleet.adapt.contract import Decision, Dispatcher
from zfleet.engine.contract import Engine
from zfleet.evaluate.statistics.reliability import expected_calibration_error


@dataclass(frozen=True)
class Measured:
    """What a dispatcher decides on labelled prompts.

    Attributes:
        n: Prompts.
        accuracy: The fraction whose most probable label is right.
        ece: Expected calibration error.
        coverage: The fraction that experts answer, and not the base.
        risk: The fraction of those whose label is wrong; None if there are none.
        tokens: Tokens of the first pass, for each prompt.
    """

    n: int
    accuracy: float
    ece: float
    coverage: float
    risk: float | None
    tokens: float

    @classmethod
    def of(cls, prompts: Sequence[LabelledPrompt], decisions: Sequence[Decision]) -> Measured:
        """Compare decisions with the prompts' labels."""
        right = [decision.label == one.label for one, decision in zip(prompts, decisions, strict=True)]
        routed = [hit for hit, decision in zip(right, decisions, strict=True) if decision.mixture]
        n = len(prompts)
        return cls(
            n=n,
            accuracy=sum(right) / n,
            ece=expected_calibration_error([decision.confidence for decision in decisions], right),
            coverage=len(routed) / n,
            risk=1 - sum(routed) / len(routed) if routed else None,
            tokens=sum(decision.prompt_tokens for decision in decisions) / n,
        )


async def decide_all(dispatcher: Dispatcher, engine: Engine, prompts: Sequence[str]) -> list[Decision]:
    """Run the first pass on many prompts at once.

    Raises:
        UnknownZ, RequestTooLong, EngineError: As ``Dispatcher.decide``.
    """
    return await asyncio.gather(*(dispatcher.decide(engine, prompt) for prompt in prompts))
