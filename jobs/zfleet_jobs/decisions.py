"""What a stored dispatcher decides on a task's prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from zfleet.adapt.cascade import for_task
from zfleet.adapt.contract import Decision
from zfleet.adapt.stored import StoredDispatcher
from zfleet.engine.blocking import SyncEngine
from zfleet.tasks.task import Sample
from zfleet.tasks.template import PromptTemplate


def asked_by(dispatcher: StoredDispatcher) -> dict[str, str]:
    """Return the experts that a dispatcher asks in its first pass, whose z an engine must know: {reference: digest}."""
    document = dispatcher.document
    return {step.asks: document.experts[step.asks] for step in document.steps if step.asks is not None}


def decide(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    stored: StoredDispatcher,
    task: str,
    samples: Sequence[Sample],
) -> list[Decision]:
    """Decide who answers each prompt, all at once. The engine knows the z that are asked.

    Args:
        stored: The dispatcher.
        task: The task that requests name, for dispatchers that go by it.
        samples: The prompts.

    Raises:
        RequestTooLong: A question does not fit.
        TaskError: The base has no chat template.
        EngineError: The engine fails.
    """
    dispatcher = stored.open(lambda prompt: PromptTemplate().render(tokenizer, prompt))
    if task in stored.document.tasks:
        dispatcher = for_task(dispatcher, task)

    async def all_of_them() -> list[Decision]:
        return await asyncio.gather(*(dispatcher.decide(engine.engine, sample.prompt) for sample in samples))

    return engine.run(all_of_them())
