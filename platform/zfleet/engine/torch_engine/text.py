"""Streaming text from tokens: whole characters only, and never a piece of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from zfleet.models.base import Base
from zfleet.models.tokens import token_bytes


class TextStream:
    """Decodes one answer token by token.

    The text is the concatenation of the tokens' bytes, so that it does not depend on how tokens are split into pushes.
    Bytes that are not UTF-8 become U+FFFD, and so does an unfinished character at the end.

    Attributes:
        stopped: Whether a stop string came up.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._bytes = token_bytes(tokenizer).of_answer(prompt)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """Add tokens and return the text that is final now. Sets ``stopped`` at a stop string."""
        return self._filter(self._decoder.decode(b"".join(map(self._bytes, tokens))))

    def flush(self) -> str:
        """Return the text that was held back, at the end of the answer; nothing after a stop string."""
        if self.stopped:
            return ""
        text = self._filter(self._decoder.decode(b"", final=True))
        return text if self.stopped else text + self._held

    def _filter(self, new: str) -> str:
        if not self._stop:
            return new
        text = self._held + new
        hits = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if hits:
            self.stopped, self._held = True, ""
            return text[: min(hits)]
        held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def eos_tokens(base: Base) -> frozenset[int]:
    """Return the tokens with which a base ends its answers."""
    configured = getattr(base.model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*listed, base.tokenizer.eos_token_id) if token is not None)


def _overlap(text: str, stop: str) -> int:
    """Count the characters at the end of the text that could begin the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
