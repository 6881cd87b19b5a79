"""Measure the base, experts, mixtures and dispatch on held-out prompts, with all experts in one engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from zfleet.adapt.asking import AskingDispatcher
from zfleet.adapt.contract import Decision
from zfleet.config.generated import KIND_QUESTION
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z, Engine
from zfleet.evaluate.graded import evaluate
from zfleet.svf.zvector import ZVector
from zfleet.tasks.generated.load import FAMILIES, TRAINED
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet_cli.demo.real.measured import Measured, Rewards


class Bench:
    """Answers held-out prompts, or finds in the folder of measurements what an earlier run answered."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        experts: Mapping[str, ZVector],
        classifier: ZVector,
        measured: Measured,
        tell: Callable[[str], None],
    ) -> None:
        """Make experts known to the engine.

        Args:
            engine: Answers; closed with the bench.
            tokenizer: The base's.
            experts: By the name of their task.
            classifier: The expert that names the kind of a request.
            measured: Where measurements are kept.
            tell: Told each measurement when it has ended.
        """
        self._engine = SyncEngine(engine)
        self._tokenizer = tokenizer
        self._z = {name: self._engine.put_z(z) for name, z in experts.items()}
        self._classifier = self._engine.put_z(classifier)
        self._measured = measured
        self._tell = tell

    def rewards(self, task: Task, expert: str | None = None) -> Rewards:
        """Return the reward of each test prompt that an expert, or the base, answers."""
        return self._rewards(task, [self._digest(expert)] * len(task.test))

    def mixture_rewards(self, task: Task, z: ZVector) -> Rewards:
        """Return the reward of each test prompt that a mixture answers."""
        return self._rewards(task, [self._engine.put_z(z)] * len(task.test))

    def routed_rewards(self, task: Task, experts: Sequence[str | None]) -> Rewards:
        """Return the reward of each test prompt that the expert given for it, or the base, answers."""
        return self._rewards(task, [self._digest(expert) for expert in experts])

    def dispatched(self, samples: Sequence[Sample], method: str) -> list[Decision]:
        """Ask the base (``prompt``) or the classifier (``classifier``) who answers each prompt."""
        template = PromptTemplate()
        dispatcher = AskingDispatcher(
            kind="prompt" if method == "prompt" else "classifier",
            # The base answers kinds whose expert this run does not have.
            routes={FAMILIES[name].label: {name: 1.0} if name in self._z else {} for name in TRAINED},
            render=lambda prompt: template.render(self._tokenizer, prompt),
            z_digest=BASE_Z if method == "prompt" else self._classifier,
            question=KIND_QUESTION,
        )

        async def decide() -> list[Decision]:
            return await asyncio.gather(*(dispatcher.decide(self._engine.engine, one.prompt) for one in samples))

        return self._engine.run(decide())

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _digest(self, expert: str | None) -> str:
        return BASE_Z if expert is None else self._z[expert]

    def _rewards(self, task: Task, digests: Sequence[str]) -> Rewards:
        rewards = self._measured.rewards(
            task,
            digests,
            lambda: evaluate(self._engine, self._tokenizer, task, task.test, digests).rewards,
        )
        self._tell(f"{len(rewards)} prompts of {task.name} are graded")
        return rewards
