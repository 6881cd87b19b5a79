"""Measuring: how many held-out prompts are answered right, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from zfleet.engine.contract import BASE_Z, GenerationRequest, SamplingParams
from zfleet.engine.sync import SyncEngine
from zfleet.errors import RewardError
from zfleet.rewards.grade import grade_all
from zfleet.tasks.task import Sample, Task

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Evaluation:
    """Grades of held-out prompts.

    Attributes:
        rewards: One per graded prompt.
        texts: The answers.
    """

    rewards: tuple[float, ...]
    texts: tuple[str, ...]

    @property
    def n(self) -> int:
        """How many prompts."""
        return len(self.rewards)

    @property
    def accuracy(self) -> float:
        """The fraction answered right (reward above 0)."""
        return sum(reward > 0 for reward in self.rewards) / self.n

    @property
    def mean_reward(self) -> float:
        """The mean reward."""
        return sum(self.rewards) / self.n

    @property
    def ci95(self) -> tuple[float, float]:
        """95% interval of the accuracy."""
        return wilson(self.accuracy, self.n)


def wilson(accuracy: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a proportion measured on n independent samples (Wilson 1927)."""
    center = accuracy + _Z95**2 / (2 * n)
    spread = _Z95 * math.sqrt(accuracy * (1 - accuracy) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    # Exact arithmetic keeps the proportion inside; rounding may not, at 0 and 1.
    return min(accuracy, max(0.0, (center - spread) / scale)), max(accuracy, min(1.0, (center + spread) / scale))


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
        RewardError: The reward function failed, or did so on every sample.
    """
    digests = [z] * len(samples) if isinstance(z, str) else list(z)
    requests = [
        GenerationRequest(
            task.prompt(tokenizer, sample),
            SamplingParams(temperature=temperature, max_tokens=task.max_tokens, stop=task.stop, seed=seed),
            digest,
            sample.read_images(),
        )
        for seed, (sample, digest) in enumerate(zip(samples, digests, strict=True))
    ]
    answers = engine.generate(requests)
    texts = [answer.text for (answer,) in answers]
    grades = grade_all(task.reward, list(zip(samples, texts, strict=True)), skip_failed_rewards)
    graded = [(grade.value, text) for grade, text in zip(grades, texts, strict=True) if grade is not None]
    if not graded:
        raise RewardError(
            f"the reward of {task.name} failed on all of {len(samples)} held-out prompts", "mend the function"
        )
    return Evaluation(tuple(value for value, _ in graded), tuple(text for _, text in graded))
