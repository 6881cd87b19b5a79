"""The dispatcher of tasks that have names: a mixture, found on a few shots of a task, answers the task's prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from zfleet.adapt.contract import Decision, Mixture
from zfleet.engine.contract import Engine
from zfleet.errors import DispatcherError


@dataclass(frozen=True)
class FewShotDispatcher:
    """Binds mixtures to tasks (arXiv 2501.06252, section 3.2: few-shot adaptation).

    It does not look at prompts: whoever asks says the task (``for_task``), and the base answers where nobody does.

    Attributes:
        mixtures: {task: mixture}.
        task: That of the prompts; None if nobody said it.
    """

    mixtures: Mapping[str, Mixture]
    task: str | None = None

    def __post_init__(self) -> None:
        if not self.mixtures:
            raise DispatcherError("a few_shot dispatcher has no tasks", "give one or more, each with its mixture")
        if self.task is not None and self.task not in self.mixtures:
            raise DispatcherError(
                f"no mixture is bound to task {self.task!r}", f"name one of: {', '.join(self.mixtures)}"
            )

    @property
    def kind(self) -> str:
        """As ``Dispatcher.kind``."""
        return "few_shot"

    def for_task(self, task: str) -> FewShotDispatcher:
        """Return the dispatcher for prompts of one task.

        Raises:
            DispatcherError: No mixture is bound to it; says which tasks there are.
        """
        return replace(self, task=task)

    async def decide(self, engine: Engine, prompt: str) -> Decision:
        """As ``Dispatcher.decide``. The engine is not asked."""
        if self.task is None:
            share = 1 / len(self.mixtures)
            probabilities = dict.fromkeys(self.mixtures, share)
            return Decision(self.kind, {}, 0.0, None, probabilities, "the request names no task: base", 0)
        probabilities = {task: float(task == self.task) for task in self.mixtures}
        reason = f"the request is of task {self.task!r}"
        return Decision(self.kind, self.mixtures[self.task], 1.0, self.task, probabilities, reason, 0)
