"""First pass: look at a prompt and decide which expert answers it (arXiv 2501.06252, section 3.2).

Both dispatchers ask the same question, ``kind? <prompt>``. The prompt dispatcher asks the base; the classifier
dispatcher asks an expert that was trained to answer it. The base answers what they cannot place; the decision says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from zfleet.config.specs import DISPATCH_PROMPT
from zfleet.engine.contract import BASE_Z, Engine, GenerationRequest, SamplingParams, collect

Method = Literal["prompt", "classifier"]
Render = Callable[[str], tuple[int, ...] | str]
"""Turns a user's text into an engine's prompt, usually by the chat template."""

LABEL_TOKENS = 8


@dataclass(frozen=True)
class Decision:
    """The decision of the first pass.

    Attributes:
        method: Which dispatcher decided.
        label: The answer, without surrounding blanks.
        expert: Answers in the second pass; None is the base.
        reason: The decision in words.
    """

    method: Method
    label: str
    expert: str | None
    reason: str


class Dispatcher(Protocol):
    """Chooses the expert that answers a prompt."""

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        """Run the first pass on a user's text.

        Raises:
            UnknownZ, RequestTooLong: As ``Engine.generate``.
        """


@dataclass(frozen=True)
class Routes:
    """Maps labels to experts.

    Attributes:
        experts: Those that can answer.
        labels: {label: expert}; a label that is not in it means the expert of the same name.
    """

    experts: Collection[str]
    labels: Mapping[str, str] = field(default_factory=dict)

    def decide(self, method: Method, answer: str) -> Decision:
        """Find the expert that an answer names; an unknown label, or one whose expert does not exist, means the base.

        The answer is a label, or a sentence that names one known label as a whole word, in any case.
        """
        label = self._only_label(answer) or answer
        expert = self.labels.get(label, label)
        if expert in self.experts:
            return Decision(method, answer, expert, f"the {method} dispatch said {answer!r}")
        what = f"expert {expert!r}" if label in self.labels else "expert of that name"
        return Decision(method, answer, None, f"the {method} dispatch said {answer!r}, there is no {what}: base")

    def _only_label(self, answer: str) -> str | None:
        known = {*self.labels, *self.experts}
        if answer in known:
            return answer
        named = [label for label in known if re.search(rf"(?i)(?<![\w-]){re.escape(label)}(?![\w-])", answer)]
        return named[0] if len(named) == 1 else None


@dataclass(frozen=True)
class PromptDispatcher:
    """Asks the base what kind of prompt it is.

    Attributes:
        routes: Map its answer to an expert.
        render: Turns the question into an engine's prompt.
        question: ``{prompt}`` in it stands for the user's text.
    """

    routes: Routes
    render: Render
    question: str = DISPATCH_PROMPT

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        """As ``Dispatcher.decide``."""
        return self.routes.decide("prompt", await _label(engine, self.render(_fill(self.question, prompt)), BASE_Z))


@dataclass(frozen=True)
class ClassifierDispatcher:
    """Asks the expert that was trained on the question.

    Attributes:
        routes: Map its answer to an expert.
        render: Turns the question into an engine's prompt.
        z: Digest of the classifier's z; the engine must know it.
        question: The one it was trained on; ``{prompt}`` in it stands for the user's text.
    """

    routes: Routes
    render: Render
    z: str
    question: str = DISPATCH_PROMPT

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        """As ``Dispatcher.decide``."""
        return self.routes.decide("classifier", await _label(engine, self.render(_fill(self.question, prompt)), self.z))


def _fill(question: str, prompt: str) -> str:
    # Not str.format: braces in the user's text, or elsewhere in the question, are no fields.
    return question.replace("{prompt}", prompt)


async def _label(engine: Engine, prompt: tuple[int, ...] | str, z: str) -> str:
    sampling = SamplingParams(temperature=0, max_tokens=LABEL_TOKENS, stop=("\n",))
    (answer,) = await collect(engine, GenerationRequest(prompt, sampling, z))
    return answer.text.strip()
