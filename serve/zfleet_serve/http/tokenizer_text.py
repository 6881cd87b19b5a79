"""The base's own tokenizer, as serving uses it."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from zfleet.errors import RequestTooLong
from zfleet.models.tokens import text_tokens, token_bytes
from zfleet.tasks.template import chat_tokens


class TokenizerText:
    """``Text`` over a tokenizer; several threads may use it.

    Args:
        tokenizer: The base's.
        max_length: The longest prompt and answer together, in tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._tokenizer = tokenizer
        # The first call switches off the truncation of the tokenizer's file; two threads must not do that at once.
        tokenizer("")
        self._max_length = max_length
        # A token covers at most as many characters as it is written in.
        self._most = max_length * max(map(len, tokenizer.get_vocab()))

    def chat(self, turns: list[dict[str, str]]) -> tuple[int, ...]:
        """As ``Text.chat``."""
        self._check(sum(len(turn["content"]) for turn in turns))
        return chat_tokens(self._tokenizer, turns)

    def tokens(self, text: str) -> tuple[int, ...]:
        """As ``Text.tokens``."""
        self._check(len(text))
        return text_tokens(self._tokenizer, text)

    def bytes_after(self, prompt: tuple[int, ...]) -> Callable[[int], bytes]:
        """As ``Text.bytes_after``."""
        return token_bytes(self._tokenizer).of_answer(prompt)

    def _check(self, characters: int) -> None:
        """Refuse a text that cannot fit by its length alone: turning it into tokens would take seconds."""
        if characters > self._most:
            raise RequestTooLong(
                f"the prompt has {characters} characters: more than fit into {self._max_length} tokens",
                "shorten the prompt",
            )
