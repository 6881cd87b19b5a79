"""First pass: look at a prompt and decide which expert answers it (arXiv 2501.06252, section 3.2).

Both dispatchers ask the same question, ``kind? <prompt>``. The prompt dispatcher asks the base; the classifier
dispatcher asks an expert that was trained to answer it. What they cannot place is the base's, and the decision says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from zfleet.config.specs import DISPATCH_PROMPT
from zfleet.engine.blocking import collect
from zfleet.engine.contract import BASE_Z, Engine, GenerationRequest, SamplingParams

Method = Literal["prompt", "classifier"]
Render = Callable[[str], tuple[int, ...] | str]
"""What a user types, as the prompt that an engine gets (the chat template, usually)."""

LABEL_TOKENS = 8


@dataclass(frozen=True)
class Decision:
    """What the first pass decided.

    Attributes:
        method: Who was asked.
        label: The answer, without surrounding blanks.
        expert: Who answers in the second pass; None is the base.
        reason: The decision in words.
    """

    method: Method
    label: str
    expert: str | None
    reason: str


class Dispatcher(Protocol):
    """Chooses who answers a prompt."""

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        """Run the first pass for what a user typed.

        Raises:
            UnknownZ, RequestTooLong: As ``Engine.generate``.
        """


@dataclass(frozen=True)
class Routes:
    """From labels to experts.

    Attributes:
        experts: Who can answer.
        labels: {label: expert}; a label that is not in it means the expert of the same name.
    """

    experts: Collection[str]
    labels: Mapping[str, str] = field(default_factory=dict)

    def decide(self, method: Method, label: str) -> Decision:
        """The expert that a label names; an unknown label, or one whose expert does not exist, is the base's."""
        expert = self.labels.get(label, label)
        if expert in self.experts:
            return Decision(method, label, expert, f"the {method} dispatch said {label!r}")
        what = f"expert {expert!r}" if label in self.labels else "expert of that name"
        return Decision(method, label, None, f"the {method} dispatch said {label!r}, there is no {what}: base")


@dataclass(frozen=True)
class PromptDispatcher:
    """The base is asked what kind of prompt it is.

    Attributes:
        routes: From its answer to an expert.
        render: Turns the question into an engine's prompt.
        ask: The question; ``{prompt}`` is what the user typed.
    """

    routes: Routes
    render: Render
    ask: str = DISPATCH_PROMPT

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        """As ``Dispatcher.decide``."""
        return self.routes.decide("prompt", await _label(engine, self.render(_fill(self.ask, prompt)), BASE_Z))


@dataclass(frozen=True)
class ClassifierDispatcher:
    """The expert trained on the question is asked.

    Attributes:
        routes: From its answer to an expert.
        render: Turns the question into an engine's prompt.
        z: Digest of the classifier's z; the engine must know it.
        ask: The question it was trained on; ``{prompt}`` is what the user typed.
    """

    routes: Routes
    render: Render
    z: str
    ask: str = DISPATCH_PROMPT

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        """As ``Dispatcher.decide``."""
        return self.routes.decide("classifier", await _label(engine, self.render(_fill(self.ask, prompt)), self.z))


def _fill(ask: str, prompt: str) -> str:
    # Not str.format: braces in what the user typed, or elsewhere in the question, are no fields.
    return ask.replace("{prompt}", prompt)


async def _label(engine: Engine, prompt: tuple[int, ...] | str, z: str) -> str:
    sampling = SamplingParams(temperature=0, max_tokens=LABEL_TOKENS, stop=("\n",))
    (answer,) = await collect(engine, GenerationRequest(prompt, sampling, z))
    return answer.text.strip()
