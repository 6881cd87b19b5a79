"""Prompt templates: from what a user types to the token ids the base sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from transformers import PreTrainedTokenizerBase

from zfleet.errors import TaskError


@dataclass(frozen=True)
class PromptTemplate:
    """Either the tokenizer's chat template or a format string over the sample's fields.

    Attributes:
        text: ``None`` for the chat template; else a format string such as ``"Once: {prompt}"``.
    """

    text: str | None = None

    def render(
        self, tokenizer: PreTrainedTokenizerBase, prompt: str, fields: Mapping[str, str] | None = None
    ) -> tuple[int, ...]:
        """The token ids of one prompt.

        Raises:
            TaskError: The format string names a field that the sample lacks, or the
                tokenizer has no chat template.
        """
        if self.text is None:
            return chat_tokens(tokenizer, [{"role": "user", "content": prompt}])
        text = fill(self.text, {"prompt": "", **(fields or {})} | {"prompt": prompt}, "template")
        return tuple(tokenizer(text)["input_ids"])


def fill(text: str, fields: Mapping[str, str], key: str) -> str:
    """A format string over a row's fields.

    Raises:
        TaskError: It names a field that the row lacks, or is no format string; says which key of the task it is.
    """
    try:
        return text.format_map(fields)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        known = ", ".join(fields)
        raise TaskError(f"{key} {text!r} cannot be filled: {error!r}", f"its rows have the fields: {known}") from error


def chat_tokens(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> tuple[int, ...]:
    """The token ids of a conversation, ready for the base's next turn.

    Raises:
        TaskError: The tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise TaskError(
            "this base's tokenizer has no chat template",
            "set `template` in the task to a format string such as '{prompt}', or use /v1/completions",
        )
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return tuple(cast(list[int], ids))
