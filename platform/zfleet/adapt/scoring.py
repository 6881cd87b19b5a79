"""Dispatchers that weigh labels: evidence of a prompt becomes probabilities, and these a decision."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from zfleet.adapt.calibration import UNCALIBRATED, Calibration
from zfleet.adapt.contract import Decision, Mixture
from zfleet.engine.contract import Engine
from zfleet.errors import DispatcherError, EngineError


@dataclass(frozen=True)
class Evidence:
    """What the first pass computed of a prompt, before calibration.

    Attributes:
        log_weights: {label: the logarithm of its weight}; only differences matter.
        novelty: How unlike the known prompts it is; larger is stranger.
        tokens: Tokens that were computed.
    """

    log_weights: Mapping[str, float]
    novelty: float
    tokens: int

    def __post_init__(self) -> None:
        for label, weight in {**self.log_weights, "novelty": self.novelty}.items():
            if math.isnan(weight) or weight == math.inf:
                raise EngineError(f"the first pass gives {weight} for {label!r}", "use a base whose logits are finite")


@dataclass(frozen=True, kw_only=True)
class ScoringDispatcher(ABC):
    """A dispatcher that weighs labels, each of which stands for a mixture.

    Attributes:
        kind: Names the method.
        routes: {label: mixture}; an empty mixture leaves the label's prompts to the base.
        calibration: Turns evidence into probabilities and decisions.
    """

    kind: str
    routes: Mapping[str, Mixture]
    calibration: Calibration = UNCALIBRATED

    def __post_init__(self) -> None:
        if not self.routes:
            raise DispatcherError("a dispatcher has no labels", "give one or more, each with its expert")

    @abstractmethod
    async def evidence(self, engine: Engine, prompt: str) -> Evidence:
        """Weigh the labels of a prompt.

        Raises:
            UnknownZ, RequestTooLong, EngineError: As ``Dispatcher.decide``.
        """

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        """As ``Dispatcher.decide``."""
        return self.judge(await self.evidence(engine, prompt))

    def judge(self, evidence: Evidence) -> Decision:
        """Decide by evidence."""
        probabilities = self.calibration.probabilities(evidence.log_weights)
        label = max(probabilities, key=probabilities.__getitem__)
        confidence = min(probabilities[label], 1.0)
        if not self.calibration.recognises(evidence.novelty):
            reason = f"the {self.kind} dispatcher does not recognise the prompt, {self.why_strange()}: base"
            return Decision(self.kind, {}, 0.0, None, probabilities, reason, evidence.tokens)
        said = f"the {self.kind} dispatcher says {label!r} with confidence {confidence:.2f}"
        if not self.calibration.trusts(confidence):
            least = self.calibration.threshold
            short = "no confidence is enough" if least is None else f"less than {least:.2f}"
            return Decision(self.kind, {}, confidence, label, probabilities, f"{said}, {short}: base", evidence.tokens)
        mixture = self.mixture_of(probabilities, label)
        reason = said if mixture else f"{said}: base"
        return Decision(self.kind, mixture, confidence, label, probabilities, reason, evidence.tokens)

    def why_strange(self) -> str:
        """Say what a large novelty means, for reasons."""
        return "which is unlike all that it knows"

    def mixture_of(self, probabilities: Mapping[str, float], label: str) -> Mixture:
        """Return the mixture of a decision: that of its label."""
        return self.routes[label]
