"""Clients that stream completions over HTTP, and the same requests put to an engine in this process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp

from zfleet.engine.contract import Engine, GenerationRequest, SamplingParams
from zfleet.errors import ServeError


@dataclass(frozen=True)
class Ask:
    """One request of the benchmark.

    Attributes:
        prompt: Token ids.
        tokens: The longest answer, in tokens.
        seed: Decides the answer.
    """

    prompt: tuple[int, ...]
    tokens: int
    seed: int


@dataclass(frozen=True)
class Answered:
    """What one request gave.

    Attributes:
        tokens: Of the answer.
        first: Seconds until its first token.
    """

    tokens: int
    first: float


Answer = Callable[[Ask], Awaitable[Answered]]


@dataclass(frozen=True)
class Rate:
    """What a load gave in a second.

    Attributes:
        requests: Answers.
        tokens: Their tokens.
    """

    requests: float
    tokens: float


async def load(answer: Answer, asks: Sequence[Ask], streams: int) -> Rate:
    """Answer all requests, ``streams`` at once."""
    left = list(asks)
    tokens = 0

    async def stream() -> None:
        nonlocal tokens
        while left:
            answered = await answer(left.pop())
            tokens += answered.tokens

    began = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(streams)))
    seconds = time.perf_counter() - began
    return Rate(len(asks) / seconds, tokens / seconds)


async def first_tokens(answer: Answer, asks: Sequence[Ask]) -> list[float]:
    """Seconds to the first token of each request, one request at a time."""
    return [(await answer(ask)).first for ask in asks]


def of_engine(engine: Engine) -> Answer:
    """Ask an engine."""

    async def answer(ask: Ask) -> Answered:
        sampling = SamplingParams(temperature=1.0, max_tokens=ask.tokens, seed=ask.seed)
        began, first, tokens = time.perf_counter(), 0.0, 0
        async for chunk in engine.generate(GenerationRequest(ask.prompt, sampling, stream=True)):
            first = first or time.perf_counter() - began
            tokens += len(chunk.token_ids)
        return Answered(tokens, first)

    return answer


def of_service(session: aiohttp.ClientSession, url: str, model: str) -> Answer:
    """Ask a service, whose last event says how many tokens it gave."""

    async def answer(ask: Ask) -> Answered:
        body = {
            "model": model,
            "prompt": ask.prompt,
            "max_tokens": ask.tokens,
            "seed": ask.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began, first = time.perf_counter(), 0.0
        before = last = b""
        async with session.post(f"{url}/v1/completions", json=body) as response:
            if response.status != 200:
                raise ServeError(f"the service gave status {response.status}", (await response.text())[:500])
            async for line in response.content:
                first = first or time.perf_counter() - began
                if line != b"\n":
                    before, last = last, line
        if last != b"data: [DONE]\n":
            raise ServeError("a stream broke", "see the logs of the service")
        return Answered(json.loads(before[len(b"data: ") :])["usage"]["completion_tokens"], first)

    return answer
