"""A request's ``model``: ``BASE``, ``BASE:math``, ``BASE:math@champion``, ``BASE:math/3`` or ``BASE:auto``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zfleet.config.names import AUTO, REFERENCE
from zfleet.errors import ExpertNotFound

_LONGEST_SHOWN = 100


class ModelNotFound(ExpertNotFound):
    """What a request's ``model`` names is not served; its text is for the client.

    Attributes:
        param: The option that names it.
    """

    param: ClassVar[str] = "model"


class PartNotFound(ModelNotFound):
    """An expert of a request's mixture is not served."""

    param = "zfleet.mixture"


@dataclass(frozen=True)
class ModelName:
    """A request's ``model``, parsed.

    Attributes:
        auto: Whether the service chooses the expert, in two passes.
        expert: A reference such as ``math``, ``math/3`` or ``math@champion``; None for the base and for ``auto``.
    """

    auto: bool = False
    expert: str | None = None

    @property
    def name(self) -> str | None:
        """The name without version and alias: ``math``, or ``auto``; None for the base."""
        if self.auto:
            return AUTO
        named = None if self.expert is None else REFERENCE.fullmatch(self.expert)
        return named["name"] if named else None


def parse_model(model: str, base: str) -> ModelName:
    """Read a request's ``model``, split at its first colon.

    Args:
        model: The request's ``model``.
        base: The name of the base that is served.

    Raises:
        ModelNotFound: It names another base, or is no reference to an expert.
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
    """Quote a name for an error, shortened if it is longer than any name may be."""
    return repr(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}...")
