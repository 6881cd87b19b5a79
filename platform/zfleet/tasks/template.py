"""Prompt templates: from what a user types to the token ids the base sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import jinja2
from transformers import PreTrainedTokenizerBase

from zfleet.errors import TaskError
from zfleet.models.tokens import text_tokens

_RAISED = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError)
"""By chat templates: on purpose, and where they meet what their writer did not think of."""


@dataclass(frozen=True)
class PromptTemplate:
    """Either the tokenizer's chat template or a format string over the sample's fields.

    Attributes:
        text: ``None`` for the chat template; else a format string such as ``"Once: {prompt}"``.
    """

    text: str | None = None

    def render(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str,
        fields: Mapping[str, str] | None = None,
        images: int = 0,
    ) -> tuple[int, ...]:
        """The token ids of one prompt.

        Its images come first, unless the format string says with image tokens where they go.

        Raises:
            TaskError: The format string names a field that the sample lacks, or the
                tokenizer has no chat template, or one that refuses the prompt.
        """
        if self.text is None:
            return chat_tokens(tokenizer, [{"role": "user", "content": prompt}], images)
        text = fill(self.text, {"prompt": "", **(fields or {})} | {"prompt": prompt}, "template")
        if _image_token(tokenizer) not in self.text:
            text = _places(tokenizer, images) + text
        return text_tokens(tokenizer, text)


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


def chat_tokens(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], images: int = 0
) -> tuple[int, ...]:
    """The token ids of a conversation, ready for the base's next turn.

    Args:
        images: How many the last message begins with.

    Raises:
        TaskError: The tokenizer has no chat template, or one that refuses the conversation: its words are the error's.
    """
    if tokenizer.chat_template is None:
        raise TaskError(
            "this base's tokenizer has no chat template",
            "set `template` in the task to a format string such as '{prompt}', or use /v1/completions",
        )
    *earlier, last = messages
    turns: list[dict[str, Any]]
    if _wants_parts(tokenizer, str(tokenizer.chat_template)):
        shown = [{"type": "image"}] * images
        turns = [{**turn, "content": [_text_part(turn)]} for turn in earlier]
        turns.append({**last, "content": [*shown, _text_part(last)]})
    else:
        turns = [dict(turn) for turn in earlier]
        turns.append({**last, "content": _places(tokenizer, images) + last["content"]})
    text = _render(tokenizer, turns, [turn["role"] for turn in messages])
    return tuple(cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"]))


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]], roles: list[str]) -> str:
    try:
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except _RAISED as error:
        raise TaskError(
            f"this base's chat template refuses turns of {', '.join(roles)}: {error}",
            "give it turns that it takes, or write the whole prompt: `template` in a task, /v1/completions over HTTP",
        ) from error


@lru_cache(8)
def _wants_parts(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Whether a chat template takes lists of parts alone, as those of LLaVA do: a plain text would be left out.

    Args:
        template: The tokenizer's, whose answer is kept: every prompt asks.
    """
    word = "zfleet"

    def says(content: Any) -> bool:
        try:
            said = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        except _RAISED:
            return False
        return word in str(said)

    return not says(word) and says([_text_part({"content": word})])


def _text_part(turn: Mapping[str, str]) -> dict[str, str]:
    return {"type": "text", "text": turn["content"]}


def _places(tokenizer: PreTrainedTokenizerBase, images: int) -> str:
    return _image_token(tokenizer) * images + "\n" if images else ""


def _image_token(tokenizer: PreTrainedTokenizerBase) -> str:
    # The name that LLaVA's processor takes where the tokenizer does not say.
    return getattr(tokenizer, "image_token", None) or "<image>"
