"""Whether a task has what objective `supervised` learns from, asked before anything is trained."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from zfleet.errors import TaskError
from zfleet.models.images import ImageReader
from zfleet.rl.recite import reference_tokens
from zfleet.tasks.fit import prompt_length
from zfleet.tasks.task import Task


def check_answered(task: Task) -> None:
    """See that every training prompt has a reference answer.

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
    """See that every training prompt has a reference answer, and that both fit the base together.

    Args:
        context: The most that the base takes, in tokens.
        reader: Of the base's images; None where it takes none.

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
