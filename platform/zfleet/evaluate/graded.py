"""Answer held-out prompts and grade the answers: how many are right, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z, GenerationRequest, SamplingParams
from zfleet.errors import RewardError
from zfleet.evaluate.statistics.proportions import wilson
from zfleet.rewards.grading import grade_all
from zfleet.tasks.task import Grade, Sample, Task, Ungraded


@dataclass(frozen=True)
class Evaluation:
    """Answers to N held-out prompts and their grades, any of which may be missing.

    Attributes:
        texts: The answers.
        grades: Of each, or why it has none.
    """

    texts: tuple[str, ...]
    grades: tuple[Grade | Ungraded, ...]

    @property
    def graded(self) -> tuple[float | None, ...]:
        """Their rewards; None for an answer that was not graded."""
        return tuple(grade.value if isinstance(grade, Grade) else None for grade in self.grades)

    @property
    def rewards(self) -> tuple[float, ...]:
        """The rewards of answers that were graded."""
        return tuple(reward for reward in self.graded if reward is not None)

    @property
    def n(self) -> int:
        """How many were graded."""
        return len(self.rewards)

    @property
    def right(self) -> int:
        """How many were answered right (reward above 0)."""
        return sum(reward > 0 for reward in self.rewards)

    @property
    def accuracy(self) -> float:
        """The fraction answered right."""
        return self.right / self.n

    @property
    def mean_reward(self) -> float:
        """The mean reward."""
        return sum(self.rewards) / self.n

    @property
    def ci95(self) -> tuple[float, float]:
        """95% interval of the accuracy."""
        return wilson(self.accuracy, self.n)


def evaluate(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    samples: Sequence[Sample],
    z: str | Sequence[str] = BASE_Z,
    temperature: float = 0.0,
    skip_failed_rewards: bool = False,
) -> Evaluation:
    """Answer and grade prompts, greedily by default.

    Args:
        z: Digest the engine knows: one for all, or one for each sample.
        temperature: Above 0, each prompt's seed is its place in the list.
        skip_failed_rewards: Leave out samples whose reward function fails.

    Raises:
        RewardError: The reward function failed, or graded none.
    """
    digests = [z] * len(samples) if isinstance(z, str) else list(z)
    evaluation = answers_graded(engine, tokenizer, task, samples, digests, temperature, skip_failed_rewards)
    if not evaluation.n:
        raise nothing_graded(task, len(samples))
    return evaluation


def answers_graded(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    samples: Sequence[Sample],
    digests: Sequence[str],
    temperature: float,
    skip_failed_rewards: bool,
    first: int = 0,
) -> Evaluation:
    """Answer and grade a part of a list, as ``evaluate``; that none is graded is no error.

    Args:
        digests: One for each sample.
        first: Place of the part in the list.
    """
    requests = requests_of(tokenizer, task, samples, digests, temperature, range(first, first + len(samples)))
    texts = tuple(answer.text for (answer,) in engine.generate(requests))
    grades = grade_all(task.reward, list(zip(samples, texts, strict=True)), skip_failed_rewards)
    return Evaluation(texts, tuple(grades))


def requests_of(
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    samples: Sequence[Sample],
    digests: Sequence[str],
    temperature: float,
    seeds: Sequence[int],
) -> list[GenerationRequest]:
    """Make the requests of a task's prompts, each under its own z and with its own seed."""
    return [
        GenerationRequest(
            task.prompt(tokenizer, sample),
            SamplingParams(temperature=temperature, max_tokens=task.max_tokens, stop=task.stop, seed=seed),
            digest,
            sample.read_images(),
        )
        for sample, digest, seed in zip(samples, digests, seeds, strict=True)
    ]


def nothing_graded(task: Task, count: int) -> RewardError:
    """Make the error of a reward that graded none of the held-out prompts."""
    return RewardError(
        f"the reward of {task.name} graded none of {count} held-out prompts: "
        "it failed, gave None or could not tell, on all of them",
        "mend the function: None says that a sample is none of its task's; the warnings say why it could not tell",
    )
