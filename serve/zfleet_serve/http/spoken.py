"""The tokens of one choice in order: their bytes, and where each begins in the text."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spoken:
    """One token of an answer.

    Attributes:
        content: Its bytes; a character may be split over tokens. Special tokens have none.
        offset: Characters of the choice's text before it.
    """

    content: bytes
    offset: int

    @property
    def text(self) -> str:
        """Its text; bytes that are none alone are written as OpenAI does, ``bytes:\\xe2``."""
        try:
            return self.content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.content)


class Speech:
    """Follows one choice.

    Args:
        piece: Gives the bytes of its tokens, called with each of them in order.
    """

    def __init__(self, piece: Callable[[int], bytes]) -> None:
        self._piece = piece
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._length = 0

    def say(self, tokens: Iterable[int]) -> list[Spoken]:
        """The next tokens."""
        return [self._next(token) for token in tokens]

    def _next(self, token: int) -> Spoken:
        spoken = Spoken(self._piece(token), self._length)
        self._length += len(self._decoder.decode(spoken.content))
        return spoken
