"""Measure accuracies for the demo's report, with all experts in one engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from zfleet.adapt.asking import AskingDispatcher
from zfleet.adapt.calibration import Calibration
from zfleet.adapt.contract import Decision, Mixture
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z, Engine
from zfleet.evaluate.graded import Evaluation, evaluate
from zfleet.models.lab.skills import KIND_PREFIX
from zfleet.svf.zvector import ZVector
from zfleet.tasks.lab import lab_task
from zfleet.tasks.task import Sample, Task
from zfleet_cli.demo.lab.plan import CLASSIFIER, SKILLS, UNSEEN, WEAK_SKILL


@dataclass(frozen=True)
class Accuracy:
    """An accuracy on held-out prompts, of greedy answers.

    Attributes:
        n: The number of prompts.
        accuracy: The fraction of right answers.
        ci95: The 95 % interval (Wilson).
    """

    n: int
    accuracy: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, result: Evaluation) -> Accuracy:
        """Take the accuracy from an evaluation."""
        return cls(result.n, result.accuracy, result.ci95)


class Bench:
    """Measures the base, experts, mixtures and dispatchers on held-out prompts.

    Attributes:
        engine: The engine that answers; closed with the bench.
        tokenizer: The base's tokenizer.
    """

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase, experts: Mapping[str, ZVector]) -> None:
        self.engine = SyncEngine(engine)
        self.tokenizer = tokenizer
        self._z = {name: self.engine.put_z(z) for name, z in experts.items()}

    def accuracy(self, task: Task, expert: str | None = None) -> Accuracy:
        """Measure an expert, or the base, on a task's held-out prompts."""
        z = BASE_Z if expert is None else self._z[expert]
        return Accuracy.of(evaluate(self.engine, self.tokenizer, task, task.test, z))

    def mixture_accuracy(self, task: Task, z: ZVector) -> Accuracy:
        """Measure a mixture on a task's held-out prompts."""
        return Accuracy.of(evaluate(self.engine, self.tokenizer, task, task.test, self.engine.put_z(z)))

    def label_accuracy(self, samples: Sequence[Sample], expert: str | None = None) -> Accuracy:
        """Measure how often the first pass names the right kind of these prompts."""
        questions = tuple(
            replace(sample, prompt=KIND_PREFIX + sample.prompt, answer=sample.fields["kind"]) for sample in samples
        )
        return self.accuracy(replace(lab_task(CLASSIFIER), test=questions), expert)

    def dispatched(self, task: Task, method: str) -> Accuracy:
        """Measure the accuracy if a dispatch method chooses who answers each prompt.

        Args:
            task: A task whose test prompts have the field ``kind``.
            method: ``prompt``, ``classifier``, or ``oracle``, which knows the kind.
        """
        if method == "oracle":
            experts: list[Mixture] = [{sample.fields["kind"]: 1.0} for sample in task.test]
        else:
            experts = [decision.mixture for decision in self._decide(task.test, self._dispatcher(method))]
        z = [self._z[next(iter(expert))] if expert else BASE_Z for expert in experts]
        return Accuracy.of(evaluate(self.engine, self.tokenizer, task, task.test, z))

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()

    def _dispatcher(self, method: str) -> AskingDispatcher:
        template = lab_task(CLASSIFIER).template
        return AskingDispatcher(
            kind="prompt" if method == "prompt" else "classifier",
            routes={name: {name: 1.0} for name in (*SKILLS, WEAK_SKILL)},
            # It names a skill if the answer is probably one; it always decides.
            calibration=Calibration(limit=0.5),
            render=lambda prompt: template.render(self.tokenizer, prompt),
            z_digest=BASE_Z if method == "prompt" else self._z[CLASSIFIER],
        )

    def _decide(self, samples: Sequence[Sample], dispatcher: AskingDispatcher) -> list[Decision]:
        async def decide() -> list[Decision]:
            engine = self.engine.engine
            return await asyncio.gather(*(dispatcher.decide(engine, sample.prompt) for sample in samples))

        return self.engine.run(decide())


def routing_exam() -> Task:
    """Make the exam for dispatch: held-out prompts of every trained skill, the weak one included, in equal parts."""
    parts = [lab_task(name) for name in (*SKILLS, WEAK_SKILL)]
    size = min(len(part.test) for part in parts) // 2
    return replace(parts[0], name="routing", test=tuple(sample for part in parts for sample in part.test[:size]))


def unseen_samples(family: str) -> Sequence[Sample]:
    """Draw held-out prompts of a family that the classifier was not trained on."""
    if family not in UNSEEN:
        raise ValueError(f"{family} is not one of {UNSEEN}")
    return lab_task(family).test
