"""The dispatcher contract: look at a prompt, choose the mixture that answers it, and say how sure the choice is.

This is the first pass of arXiv 2501.06252, section 3.2. The base answers what a dispatcher does not recognise, and what
it is not sure enough of. ``zfleet.testing.dispatcher_conformance`` is the contract as tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from zfleet.config.names import Alpha
from zfleet.engine.contract import Engine

Mixture = Mapping[str, Alpha]
"""{expert: alpha}, for ``zfleet.svf.mixture.mix``; empty: the base."""

Render = Callable[[str], tuple[int, ...]]
"""Turns a user's text into the token ids of an engine's prompt, usually by the chat template."""


@dataclass(frozen=True)
class Decision:
    """The decision of the first pass.

    Attributes:
        method: The kind of the dispatcher.
        mixture: Answers in the second pass; empty: the base.
        confidence: The probability, in [0, 1], that the label is right; calibrated if the dispatcher is.
        label: The most probable label; None if the prompt is like nothing that the dispatcher knows.
        probabilities: {label: probability}; they sum to 1.
        reason: The decision in words.
        prompt_tokens: Tokens that the first pass computed.
    """

    method: str
    mixture: Mixture
    confidence: float
    label: str | None
    probabilities: Mapping[str, float]
    reason: str
    prompt_tokens: int


class Dispatcher(Protocol):
    """Chooses the mixture that answers a prompt.

    Attributes:
        kind: Names the method.
    """

    @property
    def kind(self) -> str: ...

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        """Run the first pass on a user's text. Nothing is generated.

        Raises:
            UnknownZ, RequestTooLong: As ``Engine.score``.
            EngineError: The engine fails, or gives scores that are NaN.
        """
