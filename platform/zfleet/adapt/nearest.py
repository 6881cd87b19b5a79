"""The dispatcher that compares a prompt with known ones, and learns new labels from a few of them at run time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from zfleet.adapt.contract import Mixture, Render
from zfleet.adapt.examples import NEIGHBOURS, Examples
from zfleet.adapt.scoring import Evidence, ScoringDispatcher
from zfleet.engine.contract import Engine, HiddenRequest
from zfleet.errors import DispatcherError

_SHARPNESS = 0.07
"""The temperature of votes; of Wu et al. 2018, below."""


@dataclass(frozen=True, kw_only=True)
class NearestDispatcher(ScoringDispatcher):
    """Has the nearest examples vote, by hidden states under the base.

    A vote weighs exp(cosine / 0.07) (Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", section 3.4). One vote as light as that of the farthest neighbour is shared by all labels, so that
    a label without neighbours is improbable, not impossible.

    Attributes:
        render: Turns the user's text into an engine's prompt.
        examples: The known prompts; their labels are those of ``routes``.
    """

    kind: str = field(default="nearest", init=False)
    render: Render
    examples: Examples

    def __post_init__(self) -> None:
        super().__post_init__()
        if set(self.routes) != set(self.examples.labels):
            odd = sorted(set(self.routes) ^ set(self.examples.labels))
            raise DispatcherError(
                f"labels {', '.join(odd)} have examples and no expert, or an expert and no examples", "give both"
            )

    async def evidence(self, engine: Engine, prompt: str) -> Evidence:
        """As ``ScoringDispatcher.evidence``."""
        shown = self.render(prompt)
        distances = self.examples.distances(np.array(await engine.hidden_state(HiddenRequest(shown)), np.float32))
        labels = self.examples.labels
        nearest = np.sort(np.concatenate(distances))[:NEIGHBOURS]
        # Relative to the nearest, so that nothing overflows; on the sphere, distance^2 = 2 - 2 cosine.
        votes = [np.exp((nearest[0] ** 2 - own[own <= nearest[-1]] ** 2) / (2 * _SHARPNESS)).sum() for own in distances]
        shared = math.exp((nearest[0] ** 2 - nearest[-1] ** 2) / (2 * _SHARPNESS)) / len(labels)
        log_weights = {label: math.log(vote + shared) for label, vote in zip(labels, votes, strict=True)}
        label = max(log_weights, key=log_weights.__getitem__)
        return Evidence(log_weights, self.examples.novelty(label, distances), len(shown))

    async def learned(self, engine: Engine, label: str, prompts: Sequence[str], mixture: Mixture) -> NearestDispatcher:
        """Return this dispatcher with one more label, known by examples; the others keep theirs, and the calibration.

        Nothing is trained. The calibration's bound of the risk does not cover the new label.

        Args:
            engine: Computes hidden states.
            label: A new one.
            prompts: Users' texts, different ones; twenty are good.
            mixture: Answers them.

        Raises:
            DispatcherError: The label is there, or the prompts are too few or the same.
            EngineError, RequestTooLong: As ``Dispatcher.decide``.
        """
        if len(set(prompts)) < len(prompts):
            raise DispatcherError(f"label {label!r} has the same prompt twice", "give prompts that differ")
        states = await hidden_states(engine, self.render, prompts)
        return replace(self, routes={**self.routes, label: mixture}, examples=self.examples.with_label(label, states))


async def hidden_states(engine: Engine, render: Render, prompts: Sequence[str]) -> np.ndarray:
    """Compute the hidden states of prompts under the base: [n, hidden] float32.

    Raises:
        EngineError, RequestTooLong: As ``Dispatcher.decide``.
    """
    asked = [HiddenRequest(render(prompt)) for prompt in prompts]
    return np.array(await asyncio.gather(*(engine.hidden_state(request) for request in asked)), np.float32)
