"""The mean of a prompt's hidden states, which a worker sums up while vLLM computes the prompt, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor


class Piece(NamedTuple):
    """A piece of a prompt in a step.

    Attributes:
        key: Names the request whose hidden states are wanted; None for any other request.
        first: Place of the piece in its prompt.
        left: Tokens of the prompt from there on.
        tokens: Tokens of the request in the step; those behind the prompt do not count.
    """

    key: str | None
    first: int
    left: int
    tokens: int


class HiddenSums:
    """Sums of hidden states, by the key of their request.

    Attributes:
        wanted: Whether the current step has a piece of such a request.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._step: list[tuple[str, int, slice]] = []

    @property
    def wanted(self) -> bool:
        return bool(self._step)

    def begin(self, pieces: Sequence[Piece]) -> None:
        """Start a step of these pieces, in the order of its tokens."""
        self._step, start = [], 0
        for piece in pieces:
            count = min(piece.tokens, piece.left)
            if piece.key is not None and count > 0:
                self._step.append((piece.key, piece.first, slice(start, start + count)))
            start += piece.tokens

    def add(self, hidden: Tensor) -> None:
        """Add the step's hidden states [T, hidden]."""
        for key, first, tokens in self._step:
            # A prompt that lost its place in vLLM's cache is computed again from its beginning.
            before, done = self._sums.pop(key, (None, 0)) if first else (None, 0)
            if done != first:
                continue  # the request was abandoned; if it was not, the prompt is computed again
            piece = hidden[tokens].float().sum(0)
            self._sums[key] = piece if before is None else before + piece, done + tokens.stop - tokens.start
        self._step = []

    def take(self, key: str, abandoned: Iterable[str]) -> Tensor | None:
        """Return the mean of one request, [hidden] float32, and forget it; None if it is not there.

        Args:
            key: The request.
            abandoned: Requests that have ended, and whose means nobody takes any more: they are forgotten, too.
        """
        for name in abandoned:
            self._sums.pop(name, None)
        if key not in self._sums:
            return None
        total, count = self._sums.pop(key)
        return total / count

    def clear(self) -> None:
        """Forget all."""
        self._sums.clear()
        self._step = []
