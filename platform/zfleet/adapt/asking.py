"""Dispatchers that ask a model what kind of prompt it is: ``prompt``, ``classifier`` and ``soft``.

They put a question about the prompt, and score every allowed label as its answer: one pass over the question, and no
token is generated. ``prompt`` asks the base, ``classifier`` an expert that was trained to answer. ``soft`` asks either,
and mixes the labels' experts by the labels' probabilities.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zfleet.adapt.contract import Mixture, Render
from zfleet.adapt.engine_calls import ChoicesRequest, HiddenRequest, hidden_state, score_choices
from zfleet.adapt.examples import Examples
from zfleet.adapt.scoring import Evidence, ScoringDispatcher
from zfleet.config.names import Alpha
from zfleet.config.specs import DISPATCH_PROMPT
from zfleet.engine.contract import BASE_Z, Engine

GRID = 20
"""Mixtures of ``soft`` are rounded to parts of 1/20, so that like prompts share a z and its place in caches."""


@dataclass(frozen=True, kw_only=True)
class AskingDispatcher(ScoringDispatcher):
    """Asks the base, or an expert, for the label.

    The novelty of a prompt is the probability that its answer begins with none of the labels; with ``examples``, it is
    the distance to those.

    Attributes:
        kind: See above.
        render: Turns the question into an engine's prompt.
        z_digest: Of who is asked; the engine must know it.
        question: ``{prompt}`` in it stands for the user's text.
        examples: Known prompts; one more pass, over the prompt alone, compares it with them.
    """

    kind: Literal["prompt", "classifier", "soft"]
    render: Render
    z_digest: str = BASE_Z
    question: str = DISPATCH_PROMPT
    examples: Examples | None = None

    async def evidence(self, engine: Engine, prompt: str) -> Evidence:
        """As ``ScoringDispatcher.evidence``."""
        # Not str.format: braces in the user's text, or elsewhere in the question, are no fields.
        asked, labels = self.render(self.question.replace("{prompt}", prompt)), tuple(self.routes)
        scoring = score_choices(engine, ChoicesRequest(asked, labels, self.z_digest))
        if self.examples is None:
            scores, distance, tokens = await scoring, None, 0
        else:
            shown = self.render(prompt)
            scores, state = await asyncio.gather(scoring, hidden_state(engine, HiddenRequest(shown)))
            distance, tokens = self.examples.novelty(np.array(state, np.float32)), len(shown)
        begun = {label: math.fsum(score) for label, score in zip(labels, scores, strict=True)}
        log_weights = _apart(begun)
        mass = math.fsum(math.exp(weight) for weight in log_weights.values())
        novelty = max(0.0, 1.0 - mass) if distance is None else distance
        return Evidence(log_weights, novelty, len(asked) + sum(map(len, scores)) + tokens)

    def why_strange(self) -> str:
        """As ``ScoringDispatcher.why_strange``."""
        return super().why_strange() if self.examples else "because the answer to its question is none of the labels"

    def mixture_of(self, probabilities: Mapping[str, float], label: str) -> Mixture:
        """As ``ScoringDispatcher.mixture_of``; that of ``soft`` has every label's mixture by its probability."""
        return blended(self.routes, probabilities) if self.kind == "soft" else self.routes[label]


def _apart(begun: Mapping[str, float]) -> dict[str, float]:
    """Turn log-probabilities that an answer begins with a label into those that it is this label.

    An answer that begins with `add-all` begins with `add` too; it counts for the longer label alone.
    """
    apart: dict[str, float] = {}
    for label in sorted(begun, key=len, reverse=True):
        longer = math.fsum(math.exp(apart[other]) for other in apart if other.startswith(label))
        # Rounding, or a longer label whose tokens are others, must not make a probability negative.
        rest = -math.expm1(math.log(longer) - begun[label]) if longer and begun[label] > -math.inf else 1.0
        apart[label] = begun[label] + math.log(rest) if rest > 0 else -math.inf
    return {label: apart[label] for label in begun}


def blended(routes: Mapping[str, Mixture], probabilities: Mapping[str, float]) -> Mixture:
    """Mix the labels' mixtures by the labels' probabilities, rounded to parts of 1/``GRID`` that sum to 1.

    By the method of largest remainders, so that no part is more than 1/``GRID`` away from its probability.
    """
    exact = {label: probability * GRID for label, probability in probabilities.items()}
    parts = {label: math.floor(value) for label, value in exact.items()}
    left = GRID - sum(parts.values())
    for label in sorted(exact, key=lambda label: parts[label] - exact[label])[: max(left, 0)]:
        parts[label] += 1
    alphas: dict[str, list[Alpha]] = defaultdict(list)
    for label, part in parts.items():
        for expert, alpha in routes[label].items() if part else ():
            alphas[expert].append(_scaled(alpha, part / GRID))
    return {expert: _added(each) for expert, each in alphas.items()}


def _scaled(alpha: Alpha, by: float) -> Alpha:
    return alpha * by if isinstance(alpha, int | float) else tuple(one * by for one in alpha)


def _added(alphas: list[Alpha]) -> Alpha:
    layered = [alpha for alpha in alphas if not isinstance(alpha, int | float)]
    flat = math.fsum(alpha for alpha in alphas if isinstance(alpha, int | float))
    return tuple(flat + math.fsum(layer) for layer in zip(*layered, strict=True)) if layered else flat
