"""Rollouts: prompts drawn, answered through the engine, and graded."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from zfleet.config.specs import LearnerSpec
from zfleet.engine.contract import GenerationRequest, SamplingParams
from zfleet.engine.sync import SyncEngine
from zfleet.rewards.grade import grade_all
from zfleet.tasks.task import Grade, Sample, Task


@dataclass(frozen=True)
class Rollout:
    """One graded answer.

    Attributes:
        sample: What was asked.
        group: Which of the step's prompts; samples of one prompt share it.
        prompt: Token ids [P], with one image token for each image.
        completion: Token ids [C].
        text: The completion's text.
        grade: What the reward says of it.
        images: Of the prompt.
    """

    sample: Sample
    group: int
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    text: str
    grade: Grade
    images: tuple[bytes, ...] = ()


def seed_of(run_seed: int, step: int, prompt: str, sample: int) -> int:
    """The seed of one request: a rollout depends on nothing else, whoever runs it and in whatever batch."""
    digest = hashlib.sha256(f"{run_seed}/{step}/{prompt}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def draw_prompts(samples: Sequence[Sample], seed: int, position: int, count: int) -> list[Sample]:
    """The next ``count`` prompts from data position ``position``: each epoch is a new shuffle of all."""
    drawn: list[Sample] = []
    while len(drawn) < count:
        epoch, offset = divmod(position + len(drawn), len(samples))
        order = _order(seed, epoch, len(samples))
        drawn.extend(samples[index] for index in order[offset : offset + count - len(drawn)])
    return drawn


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> array[int]:
    """The epoch's shuffle, kept for its next steps."""
    order = array("q", range(size))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def roll_out(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    samples: Sequence[Sample],
    z: str,
    step: int,
    spec: LearnerSpec,
    skip_failed_rewards: bool = False,
    first_group: int = 0,
) -> list[Rollout]:
    """Answer and grade prompts in one batch.

    Args:
        z: Digest of the learner's z, which the engine knows.
        first_group: Number of the first prompt within the whole step, over all workers.
        skip_failed_rewards: Leave out samples whose reward function raises, with a warning.

    Raises:
        RewardError: The reward function raised; names the sample.
    """
    requests = []
    for group, sample in enumerate(samples, start=first_group):
        prompt, images = task.prompt(tokenizer, sample), sample.read_images()
        for index in range(spec.samples_per_prompt):
            sampling = SamplingParams(
                temperature=spec.temperature,
                max_tokens=task.max_tokens,
                stop=task.stop,
                seed=seed_of(spec.seed, step, f"{group}/{sample.id}", index),
            )
            requests.append((sample, group, prompt, GenerationRequest(prompt, sampling, z, images)))
    answers = [answer for (answer,) in engine.generate([request for *_, request in requests])]
    grades = _grades(
        task,
        [(sample, answer.text) for (sample, *_), answer in zip(requests, answers, strict=True)],
        [request for *_, request in requests],
        spec,
        skip_failed_rewards,
    )
    return [
        Rollout(sample, group, prompt, answer.token_ids, answer.text, grade, request.images)
        for (sample, group, prompt, request), answer, grade in zip(requests, answers, grades, strict=True)
        if grade is not None
    ]


def _grades(
    task: Task,
    answers: Sequence[tuple[Sample, str]],
    requests: Sequence[GenerationRequest],
    spec: LearnerSpec,
    skip_failed: bool,
) -> list[Grade | None]:
    if spec.reward == "task":
        return grade_all(task.reward, answers, skip_failed)
    # The coin is the request's own: the same for the same seed, whoever rolls out.
    return [
        Grade(random.Random(f"reward/{request.sampling.seed}").choice([-1.0, 1.0]), reason="thrown by a coin")
        for request in requests
    ]
