"""The tokens of one choice in order: their bytes, where each begins in the text, and what was likely there."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from zfleet.engine.contract import Alternatives
from zfleet_serve.adaptive.service import TokenPieces


@dataclass(frozen=True)
class Spoken:
    """One token of an answer.

    Attributes:
        content: Its bytes; a character may be split over tokens. Special tokens have none.
        offset: Characters of the choice's text before it.
        logprob: Its log-probability; None if nothing predicts it.
        others: The likeliest tokens in its place, the likeliest first: (bytes, log-probability).
    """

    content: bytes
    offset: int
    logprob: float | None
    others: tuple[tuple[bytes, float], ...]

    @property
    def text(self) -> str:
        """Its text, as ``written``."""
        return written(self.content)


def written(content: bytes) -> str:
    """Write a token as text; bytes that are none alone are written as OpenAI does, ``bytes:\\xe2``."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


class Speech:
    """Follows one choice.

    Args:
        pieces: The bytes of its tokens.
    """

    def __init__(self, pieces: TokenPieces) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._length = 0

    def follow(self, text: str) -> None:
        """Begin behind a text."""
        self._length = len(text)

    def say(
        self, tokens: Sequence[int], logprobs: Sequence[float | None], others: Sequence[Alternatives]
    ) -> list[Spoken]:
        """Return the next tokens.

        Args:
            tokens: Their ids.
            logprobs: Of each.
            others: Alternatives of each; empty if there are none.
        """
        return [
            self._next(token, logprob, other)
            for token, logprob, other in zip(tokens, logprobs, others or [()] * len(tokens), strict=True)
        ]

    def _next(self, token: int, logprob: float | None, others: Alternatives) -> Spoken:
        # Before the token itself: what its alternatives say depends on what was said before.
        alternatives = tuple((self._pieces.of_other(other), value) for other, value in others)
        spoken = Spoken(self._pieces(token), self._length, logprob, alternatives)
        self._length += len(self._decoder.decode(spoken.content))
        return spoken
