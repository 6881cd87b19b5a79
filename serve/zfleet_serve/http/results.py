"""What responses say beside their choices: who answered, and how many tokens that took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zfleet_serve.adaptive.first_pass import Route
from zfleet_serve.adaptive.service import Answer
from zfleet_serve.http.messages import Wire


class MixturePart(Wire):
    """One expert of the answer's z."""

    expert: str
    version: int
    alpha: float | tuple[float, ...] | dict[str, float]


class Dispatched(Wire):
    """The decision of the first pass."""

    method: str
    label: str | None
    confidence: float
    probabilities: dict[str, float]
    reason: str
    prompt_tokens: int


class Adapted(Wire):
    """The experts that answer a request, and how they were chosen."""

    model: str
    mixture: list[MixturePart]
    dispatch: Dispatched | None
    z: str
    first_pass_ms: float | None


class Answered(Adapted):
    """The ``zfleet`` object of a response: the experts that answered, and how long it took."""

    second_pass_ms: float


class Usage(Wire):
    """Tokens of a request and its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def answered(answer: Answer) -> dict[str, Any]:
    """Build the ``zfleet`` object of an answer that has just ended."""
    return Answered(**dict(adapted(answer.route)), second_pass_ms=answer.second_pass_ms).model_dump()


def adapted(route: Route) -> Adapted:
    """Describe who answers."""
    decision = route.decision
    return Adapted(
        model=route.model,
        mixture=[
            MixturePart(
                expert=part.expert,
                version=part.version,
                alpha=dict(part.alpha) if isinstance(part.alpha, Mapping) else part.alpha,
            )
            for part in route.parts
        ],
        dispatch=None
        if decision is None
        else Dispatched(
            method=decision.method,
            label=decision.label,
            confidence=decision.confidence,
            probabilities=dict(decision.probabilities),
            reason=decision.reason,
            prompt_tokens=decision.prompt_tokens,
        ),
        z=route.z,
        first_pass_ms=route.first_pass_ms,
    )


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Build the ``usage`` object."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    ).model_dump()
