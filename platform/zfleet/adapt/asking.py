"""Dispatchers that ask a model what kind of prompt it is: ``prompt``, ``classifier`` and ``soft``.

They put a question about the prompt, and score every allowed label as its answer: one pass over the question, and no
token is generated. ``prompt`` asks the base, ``classifier`` an expert that was trained to answer. ``soft`` asks either,
and mixes the labels' experts by the labels' probabilities.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zfleet.adapt.contract import Mixture, Render
from zfleet.adapt.examples import Examples
from zfleet.adapt.scoring import Evidence, ScoringDispatcher
from zfleet.config.names import Alpha
from zfleet.config.specs import DISPATCH_PROMPT
from zfleet.engine.contract import BASE_Z, ChoicesRequest, Engine, HiddenRequest
from zfleet.errors import SpecError

GRID = 20
"""Mixtures of ``soft`` are rounded to parts of 1/20, so that like prompts share a z and its place in caches."""


@dataclass(frozen=True, kw_only=True)
class AskingDispatcher(ScoringDispatcher):
    """Asks the base, or an expert, for the label.

    The novelty of a prompt is the probability that its answer begins with none of the labels; with ``examples``, it is
    the distance to those of the most probable label.

    Attributes:
        kind: See above.
        render: Turns the question into an engine's prompt.
        z_digest: Of who is asked; the engine must know it.
        question: ``{prompt}`` in it stands for the user's text.
        examples: Known prompts of every label; one more pass, over the prompt alone, compares it with them.
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
        shown = () if self.examples is None else self.render(prompt)
        scoring = engine.score_choices(ChoicesRequest(asked, labels, self.z_digest))
        scores, novelty_of = await asyncio.gather(scoring, self._compared(engine, shown))
        log_weights = _apart({label: math.fsum(score) for label, score in zip(labels, scores, strict=True)})
        tokens = len(asked) + sum(map(len, scores)) + len(shown)
        return Evidence(log_weights, novelty_of(log_weights), tokens)

    async def _compared(self, engine: Engine, shown: tuple[int, ...]) -> Callable[[Mapping[str, float]], float]:
        """Return a function from log-weights to the novelty of a prompt, which is compared with the examples."""
        if self.examples is None:
            return _none_of_the_labels
        state = np.array(await engine.hidden_state(HiddenRequest(shown)), np.float32)
        examples, distances = self.examples, self.examples.distances(state)
        return lambda log_weights: examples.novelty(max(log_weights, key=log_weights.__getitem__), distances)

    def why_strange(self) -> str:
        """As ``ScoringDispatcher.why_strange``."""
        if self.examples is None:
            return "because the answer to its question is none of the labels"
        return super().why_strange()

    def mixture_of(self, probabilities: Mapping[str, float], label: str) -> Mixture:
        """As ``ScoringDispatcher.mixture_of``; that of ``soft`` has every label's mixture by its probability."""
        return blended(self.routes, probabilities) if self.kind == "soft" else self.routes[label]


def _none_of_the_labels(log_weights: Mapping[str, float]) -> float:
    return max(0.0, 1.0 - math.fsum(math.exp(weight) for weight in log_weights.values()))


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
    if isinstance(alpha, int | float):
        return alpha * by
    if isinstance(alpha, Mapping):
        return {name: one * by for name, one in alpha.items()}
    return tuple(one * by for one in alpha)


def _added(alphas: list[Alpha]) -> Alpha:
    flat = math.fsum(alpha for alpha in alphas if isinstance(alpha, int | float))
    named = [alpha for alpha in alphas if isinstance(alpha, Mapping)]
    layered = [alpha for alpha in alphas if isinstance(alpha, tuple)]
    if named and (layered or len({frozenset(alpha) for alpha in named}) > 1):
        raise SpecError(
            "several labels mix an expert with alphas by layer and by matrix, or by different matrices",
            "give the expert the same kind of alphas in all labels",
        )
    if named:
        return {name: flat + math.fsum(alpha[name] for alpha in named) for name in named[0]}
    return tuple(flat + math.fsum(layer) for layer in zip(*layered, strict=True)) if layered else flat
