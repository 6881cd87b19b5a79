"""What dispatchers ask an engine: scores of several completions of one prompt, and a prompt's hidden state."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from zfleet.engine.contract import BASE_Z, Engine, ScoreRequest
from zfleet.errors import EngineError


@dataclass(frozen=True)
class ChoicesRequest:
    """A prompt and several completions to score under one z.

    Attributes:
        prompt: Text, or token ids.
        completions: Text, or token ids, each.
        z_digest: As in ``GenerationRequest``.
        images: As in ``GenerationRequest``.
    """

    prompt: str | tuple[int, ...]
    completions: tuple[str | tuple[int, ...], ...]
    z_digest: str = BASE_Z
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class HiddenRequest:
    """A prompt whose hidden state is asked for.

    Attributes:
        prompt: Text, or token ids.
        z_digest: As in ``GenerationRequest``.
    """

    prompt: str | tuple[int, ...]
    z_digest: str = BASE_Z


async def score_choices(engine: Engine, request: ChoicesRequest) -> tuple[tuple[float, ...], ...]:
    """Compute the log-probability of each token of each completion, as ``Engine.score`` of each."""
    if (at_once := getattr(engine, "score_choices", None)) is not None:
        scores: tuple[tuple[float, ...], ...] = await at_once(request)
        return scores
    asked = [
        ScoreRequest(request.prompt, completion, request.z_digest, request.images) for completion in request.completions
    ]
    return tuple(await asyncio.gather(*map(engine.score, asked)))


async def hidden_state(engine: Engine, request: HiddenRequest) -> tuple[float, ...]:
    """Return the mean over the prompt's tokens of the last layer's hidden states, after the final norm: [hidden].

    Raises:
        EngineError: The engine does not give hidden states.
    """
    ask = getattr(engine, "hidden_state", None)
    if ask is None:
        raise EngineError(f"{type(engine).__name__} gives no hidden states", "use an engine that does")
    state: tuple[float, ...] = await ask(request)
    return state
