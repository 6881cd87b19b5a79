"""Reference answers in the place of sampled ones: what supervised learning learns from."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from zfleet.errors import TaskError
from zfleet.rl.rollout import Rollout, Turn
from zfleet.tasks.task import Grade

RIGHT = Grade(1.0, reason="the reference answer")


def recite(tokenizer: PreTrainedTokenizerBase, turn: Turn) -> list[Rollout]:
    """Every prompt of a turn with its row's reference answer and the end of the sequence.

    Raises:
        TaskError: A row has no reference answer; names it.
    """
    return [
        Rollout(
            sample,
            group,
            turn.task.prompt(tokenizer, sample),
            reference_tokens(tokenizer, sample.answer, sample.id),
            sample.answer,
            RIGHT,
            sample.read_images(),
            z=turn.z,
            z_step=turn.z_step,
        )
        for group, sample in enumerate(turn.samples, start=turn.first_group)
    ]


def reference_tokens(tokenizer: PreTrainedTokenizerBase, answer: str, sample: str) -> tuple[int, ...]:
    """The tokens of a reference answer.

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
