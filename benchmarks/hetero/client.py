"""The client, the same for every side: a closed loop of workers, each sending its next request as one ends."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

Prompt = tuple[int, ...]

FIRST_WORD = 4
"""Ids below are special tokens, which prompts leave out."""


@dataclass(frozen=True)
class Load:
    """What a sample asks for, the same on all sides.

    Attributes:
        concurrency: Requests under way at any time.
        prompt_tokens: Length of every prompt.
        answer_tokens: Length of every answer; the end-of-sequence token is ignored.
        vocabulary: Of the base.
    """

    concurrency: int
    prompt_tokens: int
    answer_tokens: int
    vocabulary: int

    def prompts(self, count: int, seed: str) -> list[Prompt]:
        """Random prompts; no other seed gives them again."""
        chance = random.Random(seed)
        words = range(FIRST_WORD, self.vocabulary)
        return [tuple(chance.choices(words, k=self.prompt_tokens)) for _ in range(count)]


@dataclass(frozen=True)
class Ask:
    """One request: a prompt, and the number of the expert that answers it (``None`` is the base)."""

    prompt: Prompt
    expert: int | None


@dataclass(frozen=True)
class Sample:
    """One closed loop over a fixed number of requests.

    Attributes:
        tokens: Answered.
        seconds: From the first request sent to the last answer's end.
        first: Seconds from sending a request to its first token, of each request; empty unless streamed.
        between: Seconds between the tokens that follow, of all requests; empty unless streamed.
    """

    tokens: int
    seconds: float
    first: tuple[float, ...]
    between: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Output tokens a second."""
        return self.tokens / self.seconds


class Side(ABC):
    """Something that answers requests.

    Attributes:
        processes: Ids of the processes that do the work.
        streams: Whether it can say when each token came.
    """

    processes: tuple[int, ...] = ()
    streams: bool = True

    @abstractmethod
    async def sample(self, asks: Sequence[Ask], load: Load, stream: bool) -> Sample:
        """Answer all requests greedily, ``load.concurrency`` at a time, each with ``load.answer_tokens`` tokens."""

    @abstractmethod
    async def close(self) -> None:
        """End its processes. Idempotent."""


class Server(Side):
    """A side that takes requests one by one, at any time."""

    @abstractmethod
    def answer(self, ask: Ask, tokens: int, stream: bool) -> AsyncIterator[int]:
        """Answer one request; yields how many tokens are new in each chunk."""

    @abstractmethod
    async def call(self, function: Callable[[Any], Any]) -> Any:
        """What a function of ours gives back in the first worker; only where a run profiles."""

    async def sample(self, asks: Sequence[Ask], load: Load, stream: bool) -> Sample:
        """A closed loop: each of ``load.concurrency`` workers sends its next request as one ends.

        Raises:
            RuntimeError: An answer is not as long as asked for.
        """
        waiting = iter(asks)
        first: list[float] = []
        between: list[float] = []

        async def worker() -> None:
            for ask in waiting:
                sent = last = time.perf_counter()
                got = 0
                async for new in self.answer(ask, load.answer_tokens, stream):
                    now = time.perf_counter()
                    if got:
                        between.append(now - last)
                    else:
                        first.append(now - sent)
                    got, last = got + new, now
                if got != load.answer_tokens:
                    raise RuntimeError(f"an answer has {got} tokens, asked for were {load.answer_tokens}")

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(load.concurrency, len(asks))):
                group.create_task(worker())
        seconds = time.perf_counter() - began
        timings = (tuple(first), tuple(between)) if stream else ((), ())
        return Sample(len(asks) * load.answer_tokens, seconds, *timings)
