"""Work that one pass of the model does whole: scoring completions, and averaging the hidden states of a prompt."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

from zfleet.engine.answers import PromptScores
from zfleet.engine.prompts import Tokens
from zfleet.engine.torch_engine.prompt import Prompt
from zfleet.engine.z_table import ZEntry
from zfleet.models.completions import row_length

T = TypeVar("T")

Logprobs = tuple[float, ...]
"""Of the tokens of one completion."""


def _future() -> asyncio.Future[T]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False)
class SinglePass(Generic[T]):
    """Work of a single step, with one result.

    Attributes:
        slots: It takes no slot: it needs its row for one step only, and never keeps answers waiting.
        prompt: What it reads.
        entry: The z that it runs under.
        result: What it computes.
    """

    slots: ClassVar[int] = 0

    prompt: Prompt
    entry: ZEntry
    result: asyncio.Future[T] = field(default_factory=_future, init=False)

    @property
    def length(self) -> int:
        """Tokens of its pass."""
        return len(self.prompt)

    def finish(self, result: T) -> None:
        """Hand out the result, unless the reader has left."""
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        if not self.result.done():
            self.result.set_exception(error)


@dataclass(eq=False)
class Scoring(SinglePass[tuple[Logprobs, ...]]):
    """Completions of one prompt; the result is the log-probability of each token of each.

    Attributes:
        completions: Token ids of each.
    """

    completions: tuple[Tokens, ...]

    @property
    def length(self) -> int:
        """Tokens of its pass."""
        return row_length(len(self.prompt), [len(completion) for completion in self.completions])


@dataclass(eq=False)
class PromptScoring(SinglePass[PromptScores]):
    """A prompt whose own tokens are scored.

    Attributes:
        top_logprobs: How many alternatives each place has.
    """

    top_logprobs: int


@dataclass(eq=False)
class Pooling(SinglePass[tuple[float, ...]]):
    """A prompt; the result is the mean of its tokens' hidden states."""
