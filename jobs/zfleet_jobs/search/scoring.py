"""The score of a candidate: its accuracy on the shots, then the log-likelihood of their correct answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import ScoreRequest
from zfleet.errors import RewardError
from zfleet.evaluate.graded import answers_graded
from zfleet.search.coefficients import alphas_of
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Grade, Sample, Task, Ungraded


def score_candidates(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    experts: Sequence[ZVector],
    task: Task,
    points: Sequence[Sequence[float]],
    layers: int | None,
) -> list[tuple[float, float]]:
    """Answer every shot under every candidate: all of them are in the engine at once, each row on its own z.

    Args:
        experts: In the order of the points' numbers.
        task: Its train split is the shots.
        points: [candidates, dim]; see ``zfleet.search.coefficients``.
        layers: How many the base has, if each has its own alphas.

    Returns:
        For each candidate the fraction of shots answered right (greedily), and the log-likelihood of a
        correct answer and its end of sequence, summed over tokens and averaged over the shots that have an
        answer; 0 if none has. An answer that the reward cannot judge counts as wrong: a candidate must not win
        by answers that nobody can judge.

    Raises:
        RequestTooLong: A shot does not fit.
        RewardError: The reward function raised, or did not grade a shot: candidates are compared on the same ones.
    """
    shots = task.train
    mixtures = [mix(experts, alphas_of(point, len(experts), layers)) for point in points]
    digests = [engine.put_z(z) for z in mixtures]
    try:
        rows = [(digest, shot) for digest in digests for shot in shots]
        asked = [shot for _, shot in rows]
        evaluation = answers_graded(engine, tokenizer, task, asked, [digest for digest, _ in rows], 0.0, False)
        likelihoods = _likelihoods(engine, tokenizer, task, digests)
    finally:
        # Clipping makes equal candidates, so that one digest may be put twice; it is dropped once.
        for digest in dict.fromkeys(digests):
            engine.drop_z(digest)
    right = [_right(task, shot, grade) for shot, grade in zip(asked, evaluation.grades, strict=True)]
    size = len(shots)
    return [(sum(right[k * size : (k + 1) * size]) / size, likelihood) for k, likelihood in enumerate(likelihoods)]


def _right(task: Task, shot: Sample, grade: Grade | Ungraded) -> bool:
    if isinstance(grade, Grade):
        return grade.right
    if grade.undecided:
        return False
    raise RewardError(
        f"the reward of {task.name} gives None on shot {shot.id}: a search compares candidates on the same shots",
        "grade every row, or leave those of other tasks out of the task's file",
    )


def _likelihoods(
    engine: SyncEngine, tokenizer: PreTrainedTokenizerBase, task: Task, digests: Sequence[str]
) -> list[float]:
    answered = [shot for shot in task.train if shot.answer]
    if not answered:
        return [0.0] * len(digests)
    asked = [
        ScoreRequest(task.prompt(tokenizer, shot), _answer_tokens(tokenizer, shot), images=shot.read_images())
        for shot in answered
    ]
    scored = engine.score([replace(request, z_digest=digest) for digest in digests for request in asked])
    sums = [sum(logprobs) for logprobs in scored]
    size = len(asked)
    return [sum(sums[k * size : (k + 1) * size]) / size for k in range(len(digests))]


def _answer_tokens(tokenizer: PreTrainedTokenizerBase, shot: Sample) -> tuple[int, ...]:
    tokens = tuple(tokenizer(shot.answer, add_special_tokens=False)["input_ids"])
    end = tokenizer.eos_token_id
    return tokens if end is None else (*tokens, int(end))
