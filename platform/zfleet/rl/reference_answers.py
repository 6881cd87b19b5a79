"""Reference answers: what objective `supervised` learns from, and whether a task has them all."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from zfleet.errors import TaskError
from zfleet.models.images import ImageReader
from zfleet.rl.rollout import Rollout, RolloutRequest
from zfleet.tasks.fit import prompt_length
from zfleet.tasks.task import Grade, Task

RIGHT = Grade(1.0, reason="the reference answer")


def reference_rollouts(tokenizer: PreTrainedTokenizerBase, request: RolloutRequest) -> list[Rollout]:
    """Answer every prompt with its row's reference answer and the end of the sequence.

    Raises:
        TaskError: A row has no reference answer; names it.
    """
    return [
        Rollout(
            sample,
            group,
            request.task.prompt(tokenizer, sample),
            reference_tokens(tokenizer, sample.answer, sample.id),
            sample.answer,
            RIGHT,
            sample.read_images(),
            z_digest=request.z_digest,
            z_step=request.z_step,
        )
        for group, sample in enumerate(request.samples, start=request.first_group)
    ]


def reference_tokens(tokenizer: PreTrainedTokenizerBase, answer: str, sample: str) -> tuple[int, ...]:
    """Tokenize a reference answer, the end of the sequence included.

    Raises:
        TaskError: It is empty.
    """
    if not answer.strip():
        raise TaskError(
            f"sample {sample} has no reference answer, from which objective `supervised` learns",
            "give its row an answer, or set learner.objective to `reinforce`",
        )
    tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    return (*tokens, *([] if end is None else [end]))


def check_answered(task: Task) -> None:
    """Check that every training prompt has a reference answer.

    Raises:
        TaskError: Some have none; says how many, and names the first.
    """
    missing = [sample.id for sample in task.train if not sample.answer.strip()]
    if missing:
        raise TaskError(
            f"{len(missing)} of {len(task.train)} training prompts of {task.name} have no reference answer, from which "
            f"objective `supervised` learns; the first is sample {missing[0]}",
            "give every row an answer, or set the objective to `reinforce`",
        )


def check_references(
    task: Task, tokenizer: PreTrainedTokenizerBase, context: int, reader: ImageReader | None = None
) -> None:
    """Check that every training prompt has a reference answer, and that both fit the base together.

    Args:
        context: The most that the base takes, in tokens.
        reader: Of the base's images; None if it takes none.

    Raises:
        TaskError: Some have none, or do not fit; says how many, and names one.
    """
    check_answered(task)
    too_long: list[str] = []
    longest = 0
    for sample in task.train:
        needed = prompt_length(task, tokenizer, sample, reader)
        needed += len(reference_tokens(tokenizer, sample.answer, sample.id))
        longest = max(longest, needed)
        if needed > context:
            too_long.append(sample.id)
    if too_long:
        raise TaskError(
            f"{len(too_long)} of {len(task.train)} training prompts of {task.name} do not fit with their reference "
            f"answers: the base takes {context} tokens, the longest needs {longest}; the first is sample {too_long[0]}",
            "shorten them, take a base with a longer context, or set the objective to `reinforce`",
        )
