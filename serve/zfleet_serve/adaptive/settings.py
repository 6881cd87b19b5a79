"""The settings of a service, as the rooms below HTTP use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from zfleet.config.specs import DISPATCH_PROMPT


@dataclass(frozen=True)
class Served:
    """The settings of a service.

    Attributes:
        base: The base's name.
        max_length: The longest prompt and answer together, in tokens.
        classifier: The expert of the first pass of ``auto``, if there is no dispatcher.
        labels: {label of the classifier: expert}.
        ask: The question that the classifier answers.
        max_body: The size of the largest body that is read, in bytes.
        approximate: Whether the engine's linears leave something out of an expert.
        mixture_experts: The most experts that a request may mix.
        dispatcher: Reference of the dispatcher of ``auto``; None: the classifier, not calibrated.
    """

    base: str
    max_length: int
    classifier: str = "kind"
    labels: Mapping[str, str] = field(default_factory=dict)
    ask: str = DISPATCH_PROMPT
    max_body: int = 2**20
    approximate: bool = False
    mixture_experts: int = 16
    dispatcher: str | None = None
