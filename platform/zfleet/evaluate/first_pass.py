"""First passes of an evaluation: which mixture a dispatcher gave a prompt to, how sure it was, and what that cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zfleet.config.names import Alpha


@dataclass(frozen=True)
class FirstPass:
    """A dispatcher's decision on one prompt.

    Attributes:
        mixture: {expert: alpha}; empty: the base answers.
        label: What the dispatcher takes the prompt for; None if it is like nothing that it knows.
        named: The expert of that label, also where the dispatcher is not sure enough and leaves the prompt to the base;
            an empty text if no expert has this label.
        confidence: The probability that the label is right; None if the dispatcher gives none.
        probabilities: {label: probability}; empty likewise.
        reason: In words.
        prompt_tokens: Read in the first pass.
        seconds: The decision's share of its batch's time, by tokens.
    """

    mixture: Mapping[str, Alpha]
    label: str | None
    named: str
    confidence: float | None
    probabilities: Mapping[str, float]
    reason: str
    prompt_tokens: int
    seconds: float
