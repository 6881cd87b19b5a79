"""What a candidate's answers are worth, shot by shot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import Completion, GenerationRequest, SamplingParams, ScoreRequest
from zfleet.errors import RewardError
from zfleet.rewards.grading import grade_all
from zfleet.search.objective import ACCURACY, LOG_LIKELIHOOD, OWN_LOG_LIKELIHOOD, PART, REWARD
from zfleet.svf.mixture import mix
from zfleet.tasks.task import Grade, Sample, Task, Ungraded
from zfleet_jobs.search.problem import SearchProblem
from zfleet_jobs.search.settings import SearchSettings

Row = tuple[str, int]
"""The z of a candidate, and the number of a sample."""


def measure_candidates(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    problem: SearchProblem,
    settings: SearchSettings,
    points: Sequence[Sequence[float]],
    samples: Sequence[Sequence[int]],
) -> list[list[list[float]]]:
    """Answer samples under candidates: all of them are in the engine at once, each row on its own z.

    All candidates answer a sample with the same random numbers (its own number is the seed), so that they are compared
    on what differs between them.

    Args:
        points: [candidates, dim]; see ``zfleet.search.space``.
        samples: Of each candidate the numbers of the samples that it answers; see ``SearchProblem.samples``.

    Returns:
        Of each candidate [samples, metrics], with the metrics of the settings' objective. An answer that the reward
        cannot judge counts as wrong: a candidate must not win by answers that nobody can judge.

    Raises:
        RequestTooLong: A sample does not fit.
        RewardError: The reward function raised, or did not grade a sample: candidates are compared on the same ones.
    """
    space, metrics = problem.space(settings), settings.objective.metrics
    digests = [engine.put_z(mix(list(problem.experts.values()), space.alphas(point))) for point in points]
    rows = [(digest, sample) for digest, numbers in zip(digests, samples, strict=True) for sample in numbers]
    try:
        columns = _columns(engine, tokenizer, problem, settings.temperature, metrics, rows)
    finally:
        # Rounding may make candidates equal, so that one digest was put twice; it is dropped once.
        for digest in dict.fromkeys(digests):
            engine.drop_z(digest)
    values = iter(zip(*(columns[name] for name in metrics), strict=True))
    return [[list(next(values)) for _ in numbers] for numbers in samples]


def _columns(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    problem: SearchProblem,
    temperature: float,
    metrics: Sequence[str],
    rows: Sequence[Row],
) -> dict[str, list[float]]:
    """Measure each metric of each row."""
    answers = _answers(engine, tokenizer, problem, temperature, OWN_LOG_LIKELIHOOD in metrics, rows)
    pairs = [(problem.samples[sample], answer.text) for (_, sample), answer in zip(rows, answers, strict=True)]
    grades = grade_all(problem.task.reward, pairs, False)
    judged = [_judged(problem, sample, grade) for (sample, _), grade in zip(pairs, grades, strict=True)]
    graded = [name for name in metrics if name in _GRADED or name.startswith(PART)]
    columns = {name: [_value(name, grade) for grade in judged] for name in graded}
    if OWN_LOG_LIKELIHOOD in metrics:
        columns[OWN_LOG_LIKELIHOOD] = [sum(one.logprobs) / max(len(one.logprobs), 1) for one in answers]
    if LOG_LIKELIHOOD in metrics:
        columns[LOG_LIKELIHOOD] = _likelihoods(engine, tokenizer, problem, rows)
    return columns


_GRADED: dict[str, Callable[[Grade], float]] = {
    ACCURACY: lambda grade: float(grade.right),
    REWARD: lambda grade: grade.value,
}


def _value(metric: str, grade: Grade | None) -> float:
    """Return a metric of a grade; an answer that cannot be judged is as bad as a wrong one."""
    if grade is None:
        return 0.0 if metric == ACCURACY else -1.0
    if metric in _GRADED:
        return _GRADED[metric](grade)
    part = metric.removeprefix(PART)
    if part not in grade.parts:
        raise RewardError(
            f"objective names {metric}, but the reward has the parts {', '.join(grade.parts) or 'none'}",
            "name one of them, or give the task a reward of kind `sum`",
        )
    return grade.parts[part]


def _answers(
    engine: SyncEngine,
    tokenizer: PreTrainedTokenizerBase,
    problem: SearchProblem,
    temperature: float,
    logprobs: bool,
    rows: Sequence[Row],
) -> list[Completion]:
    task = problem.task
    prompts = {sample: task.prompt(tokenizer, problem.samples[sample]) for sample in {sample for _, sample in rows}}
    requests = [
        GenerationRequest(
            prompts[sample],
            SamplingParams(
                temperature=temperature, max_tokens=task.max_tokens, stop=task.stop, seed=sample, logprobs=logprobs
            ),
            digest,
            problem.samples[sample].read_images(),
        )
        for digest, sample in rows
    ]
    return [answer for (answer,) in engine.generate(requests)]


def _judged(problem: SearchProblem, sample: Sample, grade: Grade | Ungraded) -> Grade | None:
    """Return the grade; None if the reward cannot tell."""
    if isinstance(grade, Grade):
        return grade
    if grade.undecided:
        return None
    raise RewardError(
        f"the reward of {problem.task.name} gives None on shot {sample.id}: a search compares candidates on the same "
        "shots",
        "grade every row, or leave those of other tasks out of the task's file",
    )


def _likelihoods(
    engine: SyncEngine, tokenizer: PreTrainedTokenizerBase, problem: SearchProblem, rows: Sequence[Row]
) -> list[float]:
    """Compute the log-likelihood of each row's reference answer and its end; 0 where a sample has no answer."""
    task = problem.task
    asked = {
        number: (task.prompt(tokenizer, sample), _answer_tokens(tokenizer, task, sample), sample.read_images())
        for number in {number for _, number in rows}
        if (sample := problem.samples[number]).answer
    }
    scored = [row for row in rows if row[1] in asked]
    requests = [
        ScoreRequest(asked[sample][0], asked[sample][1], z_digest=digest, images=asked[sample][2])
        for digest, sample in scored
    ]
    sums = dict(zip(scored, map(sum, engine.score(requests)), strict=True))
    return [float(sums.get(row, 0.0)) for row in rows]


def _answer_tokens(tokenizer: PreTrainedTokenizerBase, task: Task, sample: Sample) -> tuple[int, ...]:
    """Return the reference answer and its end, as far as an answer of the task can go."""
    tokens = tuple(tokenizer(sample.answer, add_special_tokens=False)["input_ids"])
    end = tokenizer.eos_token_id
    return (tokens if end is None else (*tokens, int(end)))[: task.max_tokens]
