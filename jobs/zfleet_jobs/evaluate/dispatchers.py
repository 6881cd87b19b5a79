"""Dispatchers as ways of an evaluation: how one is made from its spec, and what it decides on prompts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from transformers import PreTrainedTokenizerBase

from zfleet.adapt.dispatch import ClassifierDispatcher, Decision, Dispatcher, PromptDispatcher, Render, Routes
from zfleet.config.evaluate import DispatcherSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z
from zfleet.evaluate.first_pass import FirstPass
from zfleet.tasks.task import Sample
from zfleet.tasks.template import PromptTemplate


@dataclass(frozen=True)
class DispatcherSetup:
    """A dispatcher that any worker can open.

    Attributes:
        question: ``{prompt}`` in it stands for the user's text.
        labels: {label: name of its expert}; other labels name their expert.
        asks: Digest of the z that is asked; the base's, or a classifier's.
        experts: {name that a label may have: reference}.
    """

    question: str
    labels: Mapping[str, str]
    asks: str
    experts: Mapping[str, str]

    @classmethod
    def of(cls, spec: DispatcherSpec, experts: Mapping[str, str], asks: str = BASE_Z) -> DispatcherSetup:
        """Set up the dispatcher of a spec.

        Args:
            spec: Its part of the evaluation's spec.
            experts: {name: reference} of the experts that it may choose.
            asks: Digest of the classifier's z.
        """
        return cls(spec.question, dict(spec.labels), asks, dict(experts))

    def identity(self, z_digests: Mapping[str, str]) -> object:
        """Return all that its decisions depend on, beside the base and the prompt.

        Args:
            z_digests: {reference: digest} of the experts.
        """
        return asdict(self) | {"experts": {name: z_digests[reference] for name, reference in self.experts.items()}}


def first_passes(
    engine: SyncEngine, tokenizer: PreTrainedTokenizerBase, setup: DispatcherSetup, samples: Sequence[Sample]
) -> list[FirstPass]:
    """Decide who answers each prompt, all at once. The engine knows the z that is asked.

    Raises:
        RequestTooLong: A question does not fit.
        TaskError: The base has no chat template.
    """

    def render(prompt: str) -> tuple[int, ...]:
        return PromptTemplate().render(tokenizer, prompt)

    dispatcher = _opened(setup, render)

    async def decide() -> list[Decision]:
        return await asyncio.gather(*(dispatcher.decide(engine.engine, sample.prompt) for sample in samples))

    began = time.perf_counter()
    decisions = engine.run(decide())
    seconds = time.perf_counter() - began
    read = [len(render(setup.question.replace("{prompt}", sample.prompt))) for sample in samples]
    return [
        FirstPass(
            mixture={} if decision.expert is None else {setup.experts[decision.expert]: 1.0},
            label=decision.label,
            named="" if decision.expert is None else setup.experts[decision.expert],
            confidence=None,
            probabilities={},
            reason=decision.reason,
            prompt_tokens=tokens,
            seconds=seconds * tokens / sum(read),
        )
        for decision, tokens in zip(decisions, read, strict=True)
    ]


def _opened(setup: DispatcherSetup, render: Render) -> Dispatcher:
    routes = Routes(tuple(setup.experts), setup.labels)
    if setup.asks == BASE_Z:
        return PromptDispatcher(routes, render, setup.question)
    return ClassifierDispatcher(routes, render, setup.asks, setup.question)
