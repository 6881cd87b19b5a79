"""Rollouts: prompts drawn, answered through the engine, and graded."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from zfleet.config.learner import LearnerSpec
from zfleet.engine.blocking import Completion, SyncEngine
from zfleet.engine.contract import FinishReason, GenerationRequest, SamplingParams
from zfleet.rewards.grading import grade_all
from zfleet.tasks.task import Grade, Sample, Task, Ungraded


@dataclass(frozen=True)
class Rollout:
    """One answer, graded or not.

    Attributes:
        sample: What was asked.
        group: Which of the step's prompts; samples of one prompt share it.
        prompt: Token ids [P], with one image token for each image.
        completion: Token ids [C].
        text: The completion's text.
        grade: What the reward says of it; one without a grade is recorded, and not learned from.
        images: Of the prompt.
        finish: ``length`` where the answer was cut at the task's ``max_tokens``.
        logprob: Of the whole completion, as the engine sampled it, at temperature 1. Rounded as its batch was.
        z: Digest of the z it was sampled under.
        z_step: Steps that z had learned.
    """

    sample: Sample
    group: int
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    text: str
    grade: Grade | Ungraded
    images: tuple[bytes, ...] = ()
    finish: FinishReason = "stop"
    logprob: float = field(default=0.0, compare=False)
    z: str = ""
    z_step: int = 0

    @property
    def reward(self) -> float:
        """The value of its grade, which it must have."""
        assert isinstance(self.grade, Grade)
        return self.grade.value


@dataclass(frozen=True)
class Turn:
    """What one expert asks in one step.

    Attributes:
        task: Its task.
        spec: How it learns.
        samples: This worker's prompts.
        step: Whose answers these will be, counted from 0.
        z: Digest of its z, which the engine knows.
        z_step: Steps that z had learned.
        first_group: Number of the first prompt within the whole step, over all workers.
        skip_failed_rewards: Leave out samples whose reward function raises, with a warning.
    """

    task: Task
    spec: LearnerSpec
    samples: Sequence[Sample]
    step: int
    z: str
    z_step: int = 0
    first_group: int = 0
    skip_failed_rewards: bool = False


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


@lru_cache(maxsize=32)
def _order(seed: int, epoch: int, size: int) -> array[int]:
    """The epoch's shuffle, kept for its next steps."""
    order = array("q", range(size))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def roll_out(engine: SyncEngine, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> list[list[Rollout]]:
    """Answer the prompts of all turns in one batch of the engine, and grade each turn's answers.

    Raises:
        RewardError: A reward function raised; names the sample.
    """
    asked = [_requests(tokenizer, turn) for turn in turns]
    answers = iter(engine.generate([request for one in asked for _, _, request in one]))
    return [_graded(turn, one, [next(answers)[0] for _ in one]) for turn, one in zip(turns, asked, strict=True)]


Asked = tuple[Sample, int, GenerationRequest]
"""A prompt, its group and the request that asks it."""


def _requests(tokenizer: PreTrainedTokenizerBase, turn: Turn) -> list[Asked]:
    asked: list[Asked] = []
    spec, task = turn.spec, turn.task
    for group, sample in enumerate(turn.samples, start=turn.first_group):
        prompt, images = task.prompt(tokenizer, sample), sample.read_images()
        for index in range(spec.samples_per_prompt):
            sampling = SamplingParams(
                temperature=spec.temperature,
                max_tokens=task.max_tokens,
                stop=task.stop,
                seed=seed_of(spec.seed, turn.step, f"{group}/{sample.id}", index),
                logprobs=True,
            )
            asked.append((sample, group, GenerationRequest(prompt, sampling, turn.z, images)))
    return asked


def _graded(turn: Turn, asked: Sequence[Asked], answers: Sequence[Completion]) -> list[Rollout]:
    rollouts = []
    grades = _grades(turn, asked, answers)
    for (sample, group, request), answer, grade in zip(asked, answers, grades, strict=True):
        assert isinstance(request.prompt, tuple)
        rollouts.append(
            Rollout(
                sample,
                group,
                request.prompt,
                answer.token_ids,
                answer.text,
                grade,
                request.images,
                answer.finish_reason,
                sum(answer.logprobs),
                turn.z,
                turn.z_step,
            )
        )
    return rollouts


def _grades(turn: Turn, asked: Sequence[Asked], answers: Sequence[Completion]) -> Sequence[Grade | Ungraded]:
    if turn.spec.reward == "task":
        pairs = [(sample, answer.text) for (sample, *_), answer in zip(asked, answers, strict=True)]
        return grade_all(turn.task.reward, pairs, turn.skip_failed_rewards)
    # The coin is the request's own: the same for the same seed, whoever rolls out.
    return [
        Grade(random.Random(f"reward/{request.sampling.seed}").choice([-1.0, 1.0]), reason="thrown by a coin")
        for *_, request in asked
    ]
