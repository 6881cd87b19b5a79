"""From tokens to text as they come: whole characters only, and never a piece of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_CONTEXT_TOKENS = 5
_INCOMPLETE = "\ufffd"


class TextStream:
    """Decodes one answer token by token.

    The end of the prompt is decoded along, because tokenizers write a token differently at the start of a
    text; only what follows it is the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(prompt[-_CONTEXT_TOKENS:])
        self._start = 0
        self._shown = len(self._tokens)
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """Add tokens; the text that is final now. Sets ``stopped`` when a stop string came up."""
        self._tokens.extend(tokens)
        before = self._decode(self._start, self._shown)
        after = self._decode(self._start, len(self._tokens))
        if after.endswith(_INCOMPLETE) or len(after) <= len(before):
            return ""
        self._start, self._shown = self._shown, len(self._tokens)
        return self._filter(after[len(before) :])

    def flush(self) -> str:
        """What was held back, at the end of an answer that met no stop string."""
        if self.stopped:
            return ""
        before = self._decode(self._start, self._shown)
        rest = self._decode(self._start, len(self._tokens))[len(before) :]
        text = self._filter(rest)
        return text if self.stopped else text + self._held

    def _decode(self, start: int, end: int) -> str:
        return str(
            self._tokenizer.decode(
                self._tokens[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

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


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text could begin the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
