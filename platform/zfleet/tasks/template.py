"""Prompt templates: turn the text that a user types into the token ids for the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import jinja2
from transformers import PreTrainedTokenizerBase

from zfleet.errors import TaskError
from zfleet.models.tokens import text_tokens

_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError)
"""Chat templates raise these on purpose, and on messages that their author did not foresee."""


@dataclass(frozen=True)
class PromptTemplate:
    """Either the tokenizer's chat template or a format string over the sample's fields.

    Attributes:
        text: A format string such as ``"Once: {prompt}"``; None for the chat template.
    """

    text: str | None = None

    def render(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str,
        fields: Mapping[str, str] | None = None,
        images: int = 0,
    ) -> tuple[int, ...]:
        """Return the token ids of one prompt.

        Images come first, unless the format string places them with image tokens.

        Raises:
            TaskError: The format string names a field that the sample lacks, the tokenizer has no chat template, or its
                template refuses the prompt.
        """
        if self.text is None:
            return chat_tokens(tokenizer, [{"role": "user", "content": prompt}], images)
        text = fill(self.text, {"prompt": "", **(fields or {})} | {"prompt": prompt}, "template")
        if _image_token(tokenizer) not in self.text:
            text = _image_tokens(tokenizer, images) + text
        return text_tokens(tokenizer, text)


def fill(text: str, fields: Mapping[str, str], key: str) -> str:
    """Fill a format string with a row's fields.

    Args:
        key: The key of the task that holds the format string, for errors.

    Raises:
        TaskError: The format string names a field that the row lacks, or is invalid.
    """
    try:
        return text.format_map(fields)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise TaskError(
            f"{key} {text!r} cannot be filled: {error!r}", f"its rows have the fields: {', '.join(fields)}"
        ) from error


def chat_tokens(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], images: int = 0
) -> tuple[int, ...]:
    """Return the token ids of a conversation, ready for the base's next turn.

    Args:
        images: How many images the last message begins with.

    Raises:
        TaskError: The tokenizer has no chat template, or its template refuses the conversation; quotes the template.
    """
    if tokenizer.chat_template is None:
        raise TaskError(
            "this base's tokenizer has no chat template",
            "set `template` in the task to a format string such as '{prompt}'; over HTTP, use /v1/completions",
        )
    *earlier, last = messages
    turns: list[dict[str, Any]]
    if _needs_parts(tokenizer, str(tokenizer.chat_template)):
        turns = [{**turn, "content": [_text_part(turn)]} for turn in earlier]
        turns.append({**last, "content": [*[{"type": "image"}] * images, _text_part(last)]})
    else:
        turns = [dict(turn) for turn in earlier]
        turns.append({**last, "content": _image_tokens(tokenizer, images) + last["content"]})
    text = _render(tokenizer, turns, [turn["role"] for turn in messages])
    return tuple(cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"]))


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]], roles: list[str]) -> str:
    try:
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except _TEMPLATE_ERRORS as error:
        raise TaskError(
            f"this base's chat template refuses turns of {', '.join(roles)}: {error}",
            "send turns that it accepts, or write the whole prompt: `template` in a task, /v1/completions over HTTP",
        ) from error


@lru_cache(8)
def _needs_parts(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Return whether a chat template accepts lists of parts only, like LLaVA's, which would drop a plain text.

    Args:
        template: The tokenizer's template, a key of the cache: every prompt asks this.
    """
    word = "zfleet"

    def renders(content: Any) -> bool:
        try:
            text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        except _TEMPLATE_ERRORS:
            return False
        return word in str(text)

    return not renders(word) and renders([_text_part({"content": word})])


def _text_part(turn: Mapping[str, str]) -> dict[str, str]:
    return {"type": "text", "text": turn["content"]}


def _image_tokens(tokenizer: PreTrainedTokenizerBase, images: int) -> str:
    return _image_token(tokenizer) * images + "\n" if images else ""


def _image_token(tokenizer: PreTrainedTokenizerBase) -> str:
    # LLaVA's processor uses this name if the tokenizer gives none.
    return getattr(tokenizer, "image_token", None) or "<image>"
