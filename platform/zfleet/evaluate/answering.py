"""Answer prompts, each under its own z, in one batch of the engine, and note what each answer cost."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import FinishReason
from zfleet.errors import RewardError
from zfleet.evaluate.graded import requests_of
from zfleet.evaluate.splits import row_digest
from zfleet.rewards.grading import grade_all
from zfleet.tasks.task import Grade, Sample, Task, Ungraded


@dataclass(frozen=True)
class Ask:
    """A prompt to answer.

    Attributes:
        sample: The prompt, as it is put to the engine.
        z_digest: The z to answer it under.
        seed: Of sampled answers; greedy ones do not depend on it.
    """

    sample: Sample
    z_digest: str
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """An answer and its grade.

    Attributes:
        completion: The text.
        finish: Why it ended.
        tokens: Generated.
        prompt_tokens: Read.
        seconds: The answer's share of its batch's time, by the tokens that it read and generated.
        reward: None if it was not graded.
        extracted: What the grader took for the answer.
        reason: Of the grade, or why there is none.
        parts: Of a reward that has several.
    """

    completion: str
    finish: FinishReason
    tokens: int
    prompt_tokens: int
    seconds: float
    reward: float | None
    extracted: str | None
    reason: str
    parts: Mapping[str, float] = field(default_factory=dict)


def answer(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    asks: Sequence[Ask],
    temperature: float,
    skip_failed_rewards: bool,
) -> list[Answer]:
    """Answer and grade prompts, in order. All of them are in the engine at once, each row on its own z.

    Args:
        engine: Knows every z.
        temperature: 0 is greedy. Above, the same prompt and seed draw the same random numbers under every z.
        skip_failed_rewards: Leave an answer without a grade if the reward function fails on it.

    Raises:
        RequestTooLong: A prompt does not fit.
        RewardError: The reward function failed, or gave a reward that is not finite.
    """
    samples, digests = [ask.sample for ask in asks], [ask.z_digest for ask in asks]
    requests = requests_of(tokenizer, task, samples, digests, temperature, [_seed(ask) for ask in asks])
    began = time.perf_counter()
    completions = [completion for (completion,) in engine.generate(requests)]
    seconds = time.perf_counter() - began
    answers = [(sample, completion.text) for sample, completion in zip(samples, completions, strict=True)]
    grades = grade_all(task.reward, answers, skip_failed_rewards)
    work = [
        len(request.prompt) + len(completion.token_ids)
        for request, completion in zip(requests, completions, strict=True)
    ]
    each = seconds / max(sum(work), 1)
    return [
        Answer(
            completion=completion.text,
            finish=completion.finish_reason,
            tokens=len(completion.token_ids),
            prompt_tokens=len(request.prompt),
            seconds=each * share,
            reward=_reward(task, sample, grade),
            extracted=grade.extracted if isinstance(grade, Grade) else None,
            reason=grade.reason,
            parts=dict(grade.parts) if isinstance(grade, Grade) else {},
        )
        for sample, request, completion, grade, share in zip(samples, requests, completions, grades, work, strict=True)
    ]


def _reward(task: Task, sample: Sample, grade: Grade | Ungraded) -> float | None:
    if isinstance(grade, Ungraded):
        return None
    if not math.isfinite(grade.value):
        raise RewardError(
            f"the reward of {task.name} is {grade.value} on sample {sample.id}", "return a finite number, or None"
        )
    return grade.value


def _seed(ask: Ask) -> int:
    """Return the seed of a request: it depends on the prompt and not on its batch, and is the same under every z."""
    digest = hashlib.sha256(f"{ask.seed}/{row_digest(ask.sample)}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
