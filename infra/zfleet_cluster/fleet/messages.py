"""The messages between a client of the fleet and a replica: calls and replies. ``frames`` carries them."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

import zfleet.errors
from zfleet.engine.contract import (
    ChoicesRequest,
    Chunk,
    EngineStats,
    GenerationRequest,
    HiddenRequest,
    PromptRequest,
    PromptScores,
)
from zfleet.errors import EngineError, ZfleetError


class PutZ(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Make a z known, as ``ZVector.to_bytes`` wrote it. Answered by ``Done`` or ``Failed``."""

    number: int
    z: bytes


class DropZ(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Forget a z, unless another client holds it. Not answered."""

    digest: str


class ChooseDirections(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """As ``Engine.choose_directions``. Answered by ``Done`` or ``Failed``."""

    number: int
    digests: tuple[str, ...]
    again: bool


class AskErrors(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """As ``Engine.truncation_errors``. Answered by ``Errors`` or ``Failed``."""

    number: int


class Generate(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Answered by ``Piece`` until each of the ``n`` answers has ended, or by ``Failed``."""

    number: int
    request: GenerationRequest


class Score(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Answered by ``Scored`` or ``Failed``."""

    number: int
    request: ChoicesRequest


class ScorePrompt(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Answered by ``PromptScored`` or ``Failed``."""

    number: int
    request: PromptRequest


class ReadHidden(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Answered by ``Hidden`` or ``Failed``."""

    number: int
    request: HiddenRequest


class Stop(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """End a request. Not answered, and the request gets no more replies."""

    number: int


class AskStats(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Answered by ``Stats`` or ``Failed``."""

    number: int


class CheckHealth(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Answered by ``Done`` or ``Failed``."""

    number: int


Call: TypeAlias = (
    PutZ
    | DropZ
    | ChooseDirections
    | AskErrors
    | Generate
    | Score
    | ScorePrompt
    | ReadHidden
    | Stop
    | AskStats
    | CheckHealth
)
"""From client to replica; ``number`` names a call on its connection and is never used twice there."""


class Done(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The z is known, the directions are chosen, or the engine is well."""

    number: int


class Piece(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A chunk of an answer."""

    number: int
    chunk: Chunk


class Scored(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Log-probabilities of the tokens of each completion."""

    number: int
    logprobs: tuple[tuple[float, ...], ...]


class PromptScored(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Log-probabilities of a prompt's own tokens."""

    number: int
    scores: PromptScores


class Hidden(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The mean of a prompt's hidden states."""

    number: int
    state: tuple[float, ...]


class Stats(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The engine's counters."""

    number: int
    stats: EngineStats


class Errors(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """What is left out of each z, by digest."""

    number: int
    errors: dict[str, float]


class Failed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """An error that ends a call: the name of its class in ``zfleet.errors``, its message and its remedy."""

    number: int
    kind: str
    message: str
    remedy: str

    @classmethod
    def of(cls, number: int, error: ZfleetError) -> Failed:
        """Describe an error. An error that ``zfleet.errors`` lacks goes by the name of its nearest base class there."""
        kind = next(kind for kind in type(error).__mro__ if vars(zfleet.errors).get(kind.__name__) is kind)
        return cls(number, kind.__name__, error.message, error.remedy)

    @property
    def error(self) -> ZfleetError:
        """The error as the engine raised it; an ``EngineError`` if ``zfleet.errors`` has no class of that name."""
        kind = getattr(zfleet.errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, ZfleetError)):
            kind = EngineError
        return kind(self.message, self.remedy)


Reply: TypeAlias = Done | Piece | Scored | PromptScored | Hidden | Stats | Errors | Failed
"""From replica to client."""

Message: TypeAlias = Call | Reply
