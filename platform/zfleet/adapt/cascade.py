"""The dispatcher that asks cheap ones first, and others only where those are not sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zfleet.adapt.contract import Decision, Dispatcher
from zfleet.adapt.few_shot import FewShotDispatcher
from zfleet.engine.contract import Engine
from zfleet.errors import DispatcherError


@dataclass(frozen=True)
class CascadeStep:
    """One dispatcher of a cascade.

    Attributes:
        dispatcher: Asked if all before it were less sure than they must be.
        least: The least confidence at which its decision holds; None: it never does.
    """

    dispatcher: Dispatcher
    least: float | None


@dataclass(frozen=True)
class CascadeDispatcher:
    """Asks its steps in order until one is sure enough; the last one's decision holds in any case.

    Attributes:
        steps: Two or more, the cheapest first.
    """

    steps: Sequence[CascadeStep]

    def __post_init__(self) -> None:
        if len(self.steps) < 2:
            raise DispatcherError(f"a cascade has {len(self.steps)} steps", "give two or more")

    @property
    def kind(self) -> str:
        """As ``Dispatcher.kind``."""
        return "cascade"

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        """As ``Dispatcher.decide``."""
        reasons: list[str] = []
        tokens = 0
        for step in self.steps:
            decision = await step.dispatcher.decide(engine, prompt)
            tokens += decision.prompt_tokens
            reasons.append(decision.reason)
            if decision.label is not None and step.least is not None and decision.confidence >= step.least:
                break
        return replace(decision, method=self.kind, reason="; ".join(reasons), prompt_tokens=tokens)


def for_task(dispatcher: Dispatcher, task: str) -> Dispatcher:
    """Return a dispatcher for prompts of one task, which matters to ``few_shot`` alone, or as a step of a cascade.

    Raises:
        DispatcherError: No mixture is bound to the task.
    """
    if isinstance(dispatcher, FewShotDispatcher):
        return dispatcher.for_task(task)
    if isinstance(dispatcher, CascadeDispatcher):
        steps = [replace(step, dispatcher=for_task(step.dispatcher, task)) for step in dispatcher.steps]
        return CascadeDispatcher(steps)
    return dispatcher
