"""Two passes: a dispatcher chooses who answers, then the prompt is answered under that z."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from zfleet.adapt.dispatch import Decision, Dispatcher
from zfleet.engine.contract import BASE_Z, Completion, Engine, GenerationRequest, collect

ZOf = Callable[[str], Awaitable[str]]
"""The digest of an expert's z, which the engine knows by then."""


@dataclass(frozen=True)
class FirstPass:
    """A prompt that knows who answers it.

    Attributes:
        decision: What the first pass decided.
        request: The request under the chosen z; ``Engine.generate`` is the second pass, streaming or not.
        first_pass_ms: How long the decision took.
    """

    decision: Decision
    request: GenerationRequest
    first_pass_ms: float


@dataclass(frozen=True)
class TwoPass:
    """A prompt, dispatched and answered.

    Attributes:
        decision: What the first pass decided.
        completions: The ``n`` answers.
        first_pass_ms: How long the decision took.
        second_pass_ms: How long the answers took.
    """

    decision: Decision
    completions: tuple[Completion, ...]
    first_pass_ms: float
    second_pass_ms: float


async def first_pass(
    engine: Engine, dispatcher: Dispatcher, prompt: str, request: GenerationRequest, z_of: ZOf
) -> FirstPass:
    """Decide who answers; the caller runs the second pass, to stream it for example.

    Args:
        engine: Runs both passes.
        dispatcher: Decides.
        prompt: What the user typed.
        request: The second pass, whose z is replaced by the chosen one.
        z_of: From the chosen expert to its z.

    Raises:
        UnknownZ, RequestTooLong: As ``Engine.generate``; and what ``z_of`` raises: an expert that was chosen
            and cannot be loaded is an error, never the base.
    """
    start = time.perf_counter()
    decision = await dispatcher.decide(engine, prompt)
    z = BASE_Z if decision.expert is None else await z_of(decision.expert)
    return FirstPass(decision, replace(request, z=z), milliseconds_since(start))


async def two_pass(
    engine: Engine, dispatcher: Dispatcher, prompt: str, request: GenerationRequest, z_of: ZOf
) -> TwoPass:
    """Decide and answer; many at once share the engine's batches.

    Args and errors as in ``first_pass``.
    """
    first = await first_pass(engine, dispatcher, prompt, request, z_of)
    start = time.perf_counter()
    completions = tuple(await collect(engine, first.request))
    return TwoPass(first.decision, completions, first.first_pass_ms, milliseconds_since(start))


def milliseconds_since(start: float) -> float:
    """Milliseconds since a ``time.perf_counter()``."""
    return (time.perf_counter() - start) * 1000.0
