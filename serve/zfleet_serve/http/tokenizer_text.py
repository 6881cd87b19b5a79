"""The base's own tokenizer, as serving uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from zfleet.errors import InvalidRequest, RequestTooLong
from zfleet.models.tokens import AnswerBytes, text_tokens, token_bytes
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

    def tokens(self, text: str, special: bool = True) -> tuple[int, ...]:
        """As ``Text.tokens``."""
        self._check(len(text))
        if not special:
            return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return text_tokens(self._tokenizer, text)

    def decode(self, tokens: Sequence[int]) -> str:
        """As ``Text.decode``."""
        entries = len(self._tokenizer)
        unknown = next((token for token in tokens if not 0 <= token < entries), None)
        if unknown is not None:
            raise InvalidRequest(
                f"tokens has {unknown}, the tokenizer has {entries} entries", "send ids of this base's tokenizer"
            )
        return str(self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    def names(self, tokens: Sequence[int]) -> list[str]:
        """As ``Text.names``."""
        return [str(name) for name in self._tokenizer.convert_ids_to_tokens(list(tokens))]

    def info(self) -> dict[str, Any]:
        """As ``Text.info``. Paths of the server are left out, and so is what only its own code needs."""
        tokenizer = self._tokenizer
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        return {
            "tokenizer_class": type(tokenizer).__name__,
            "vocab_size": len(tokenizer),
            "model_max_length": self._max_length,
            "chat_template": tokenizer.chat_template,
            **{name: special.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")},
        }

    def bytes_after(self, prompt: tuple[int, ...]) -> AnswerBytes:
        """As ``Text.bytes_after``."""
        return token_bytes(self._tokenizer).of_answer(prompt)

    def _check(self, characters: int) -> None:
        """Refuse a text that cannot fit by its length alone: turning it into tokens would take seconds."""
        if characters > self._most:
            raise RequestTooLong(
                f"the prompt has {characters} characters: more than fit into {self._max_length} tokens",
                "shorten the prompt",
            )
