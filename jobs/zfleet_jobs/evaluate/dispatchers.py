"""Dispatchers as ways of an evaluation: registered ones, bare ones of the spec, and what they decide on prompts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from zfleet.adapt.calibration import Calibration
from zfleet.adapt.contract import Mixture
from zfleet.adapt.document import DispatcherDocument, StepDocument
from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.evaluate import DispatcherSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.evaluate.cells import numbers_of
from zfleet.evaluate.first_pass import FirstPass
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Sample
from zfleet_jobs.decisions import decide

_LIKELY = Calibration(limit=0.5)
"""Of a bare dispatcher: it recognises a prompt if the answer is probably one of its labels, and then always decides."""


def bare_dispatcher(
    spec: DispatcherSpec,
    experts: Mapping[str, ZVector],
    names: Mapping[str, str],
    classifier: tuple[str, ZVector] | None,
) -> StoredDispatcher:
    """Make a dispatcher that was not calibrated, as the service has one where no other is set.

    Args:
        spec: Its question and its labels.
        experts: {reference: z} of those that it may choose.
        names: {name that a label may have: reference}.
        classifier: Reference and z of the expert that is asked; None asks the base.
    """
    known = {**experts, **dict([classifier] if classifier else [])}
    first = next(iter(experts.values()))
    labels = {name: name for name in names if "/" not in name} | spec.labels
    step = StepDocument(
        kind="classifier" if classifier else "prompt",
        asks=classifier[0] if classifier else None,
        question=spec.question,
        calibration=_LIKELY,
    )
    return StoredDispatcher(
        DispatcherDocument(
            base=first.base,
            factors=first.factors,
            experts={reference: z.digest for reference, z in known.items()},
            routes={label: {names[name]: 1.0} for label, name in labels.items()},
            steps=(step,),
        )
    )


def first_passes(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    stored: StoredDispatcher,
    task: str,
    samples: Sequence[Sample],
) -> list[FirstPass]:
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
    began = time.perf_counter()
    decisions = decide(engine, tokenizer, stored, task, samples)
    each = (time.perf_counter() - began) / max(sum(decision.prompt_tokens for decision in decisions), 1)
    routes = stored.document.routes | stored.document.tasks
    return [
        FirstPass(
            mixture=decision.mixture,
            label=decision.label,
            named="" if decision.label is None else main_expert(routes[decision.label]),
            # Of a prompt that it does not recognise, no label could be right.
            confidence=None if decision.label is None else decision.confidence,
            probabilities=decision.probabilities,
            reason=decision.reason,
            prompt_tokens=decision.prompt_tokens,
            seconds=each * decision.prompt_tokens,
        )
        for decision in decisions
    ]


def main_expert(mixture: Mixture) -> str:
    """Return the expert with the largest alpha; an empty text for the base."""
    return max(mixture, key=lambda name: sum(numbers_of(mixture[name])) / len(numbers_of(mixture[name])), default="")
