"""What a request's ``model`` means: ``BASE``, ``BASE:math``, ``BASE:math@champion``, ``BASE:math/3``, ``BASE:auto``."""

from __future__ import annotations

from dataclasses import dataclass

from zfleet.config.names import AUTO, REFERENCE
from zfleet.errors import ExpertNotFound

_LONGEST_SHOWN = 100


class ModelNotFound(ExpertNotFound):
    """What a request's ``model`` names is not served; its text is for the client."""


@dataclass(frozen=True)
class ModelName:
    """Who is asked to answer.

    Attributes:
        auto: Two passes: the service chooses.
        expert: A reference such as ``math``, ``math/3`` or ``math@champion``; None is the base, or the choice.
    """

    auto: bool = False
    expert: str | None = None


def parse_model(model: str, base: str) -> ModelName:
    """Read a request's ``model``, split at its first colon.

    Args:
        model: What the request says.
        base: The name of the base that is served.

    Raises:
        ModelNotFound: Another base, or no reference to an expert.
    """
    name, colon, rest = model.partition(":")
    if name != base:
        raise ModelNotFound(f"the base served here is {base!r}")
    if not colon:
        return ModelName()
    if rest == AUTO:
        return ModelName(auto=True)
    if not REFERENCE.fullmatch(rest):
        raise ModelNotFound(f"{shown(rest)} names no expert")
    return ModelName(expert=rest)


def shown(name: str) -> str:
    """A name as an error quotes it: all of it, unless it is longer than any name is."""
    return repr(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}...")
