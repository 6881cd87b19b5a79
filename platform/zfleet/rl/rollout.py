"""Rollouts: prompts drawn, answered through the engine, graded, and selected."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from zfleet.config.learner import LearnerSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import Completion, FinishReason, GenerationRequest, SamplingParams
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
        grade: What the reward says of it; a rollout without a grade is recorded, and not learned from.
        images: Of the prompt.
        finish: ``length`` if the answer was cut at the task's ``max_tokens``.
        logprob: Of the whole completion, as the engine sampled it, at temperature 1. Rounded as its batch was.
        z_digest: Of the z that it was sampled under, as the engine says it.
        z_step: After how many steps that z was reached.
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
    z_digest: str = ""
    z_step: int = 0

    @property
    def reward(self) -> float:
        """The value of its grade, which it must have."""
        assert isinstance(self.grade, Grade)
        return self.grade.value


@dataclass(frozen=True)
class RolloutRequest:
    """What one expert samples in one step.

    Attributes:
        task: Its task.
        spec: How it learns.
        samples: This worker's prompts.
        step: Number of the step, from 0.
        z_digest: Of the z that answers; the engine knows it.
        z_step: After how many steps that z was reached.
        first_group: Number of the first prompt within the whole step, over all workers.
        skip_failed_rewards: Leave out samples whose reward function raises, with a warning.
    """

    task: Task
    spec: LearnerSpec
    samples: Sequence[Sample]
    step: int
    z_digest: str
    z_step: int = 0
    first_group: int = 0
    skip_failed_rewards: bool = False

    @property
    def samples_answers(self) -> bool:
        """Whether answers are sampled; if not, the task's reference answers stand in their place."""
        return self.spec.objective == "reinforce"


def seed_of(run_seed: int, step: int, prompt: str, sample: int) -> int:
    """Return the seed of one request: a rollout depends on nothing else, whichever worker and batch it runs in."""
    digest = hashlib.sha256(f"{run_seed}/{step}/{prompt}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def draw_prompts(samples: Sequence[Sample], seed: int, position: int, count: int) -> list[Sample]:
    """Draw the next ``count`` prompts from data position ``position``: each epoch is a new shuffle of all."""
    drawn: list[Sample] = []
    while len(drawn) < count:
        epoch, offset = divmod(position + len(drawn), len(samples))
        order = _order(seed, epoch, len(samples))
        drawn.extend(samples[index] for index in order[offset : offset + count - len(drawn)])
    return drawn


@lru_cache(maxsize=32)
def _order(seed: int, epoch: int, size: int) -> array[int]:
    """Shuffle an epoch; cached for its next steps."""
    order = array("q", range(size))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def roll_out(
    engine: SyncEngine, tokenizer: PreTrainedTokenizerBase, requests: Sequence[RolloutRequest]
) -> list[list[Rollout]]:
    """Sample the answers of all requests in one batch of the engine, and grade those of each.

    Raises:
        RewardError: A reward function raised; names the sample.
        WrongZ: The engine answered under another z than the one that was published.
    """
    asked = [_prompts(tokenizer, request) for request in requests]
    answers = iter(engine.generate([prompt.request for prompts in asked for prompt in prompts]))
    return [
        _graded(request, prompts, [next(answers)[0] for _ in prompts])
        for request, prompts in zip(requests, asked, strict=True)
    ]


def used_rollouts(spec: LearnerSpec, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Select what a spec learns from, in order: samples that have a grade, less those that the spec leaves out.

    It may leave out answers cut at ``max_tokens`` (arXiv 2503.14476, section 3.4), and prompts whose answers all have
    one reward, from which estimators of groups learn nothing (there, section 3.2; here none are drawn anew).
    """
    used = [rollout for rollout in rollouts if isinstance(rollout.grade, Grade)]
    if spec.truncated == "leave_out":
        used = [rollout for rollout in used if rollout.finish != "length"]
    if spec.equal_groups == "keep":
        return used
    rewards: dict[int, set[float]] = defaultdict(set)
    for rollout in used:
        rewards[rollout.group].add(rollout.reward)
    return [rollout for rollout in used if len(rewards[rollout.group]) > 1]


@dataclass(frozen=True)
class _Prompt:
    """One sample of a prompt, on its way to the engine."""

    sample: Sample
    group: int
    request: GenerationRequest


def _prompts(tokenizer: PreTrainedTokenizerBase, request: RolloutRequest) -> list[_Prompt]:
    prompts: list[_Prompt] = []
    spec, task = request.spec, request.task
    for group, sample in enumerate(request.samples, start=request.first_group):
        tokens, images = task.prompt(tokenizer, sample), sample.read_images()
        for index in range(spec.samples_per_prompt):
            sampling = SamplingParams(
                temperature=spec.temperature,
                max_tokens=task.max_tokens,
                stop=task.stop,
                seed=seed_of(spec.seed, request.step, f"{group}/{sample.id}", index),
                logprobs=True,
            )
            prompts.append(_Prompt(sample, group, GenerationRequest(tokens, sampling, request.z_digest, images)))
    return prompts


def _graded(request: RolloutRequest, prompts: Sequence[_Prompt], answers: Sequence[Completion]) -> list[Rollout]:
    rollouts = []
    grades = _grades(request, prompts, answers)
    for prompt, answer, grade in zip(prompts, answers, grades, strict=True):
        assert isinstance(prompt.request.prompt, tuple)
        rollouts.append(
            Rollout(
                prompt.sample,
                prompt.group,
                prompt.request.prompt,
                answer.token_ids,
                answer.text,
                grade,
                prompt.request.images,
                answer.finish_reason,
                sum(answer.logprobs),
                answer.z_digest,
                request.z_step,
            )
        )
    return rollouts


def _grades(
    request: RolloutRequest, prompts: Sequence[_Prompt], answers: Sequence[Completion]
) -> Sequence[Grade | Ungraded]:
    if request.spec.reward == "task":
        pairs = [(prompt.sample, answer.text) for prompt, answer in zip(prompts, answers, strict=True)]
        return grade_all(request.task.reward, pairs, request.skip_failed_rewards)
    # The coin follows from the prompt's seed, so that it is the same on every worker.
    return [
        Grade(random.Random(f"reward/{prompt.request.sampling.seed}").choice([-1.0, 1.0]), reason="thrown by a coin")
        for prompt in prompts
    ]
