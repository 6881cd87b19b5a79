"""An engine behind limits: every request waits for its turn, is counted, and ends at its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from zfleet.engine.contract import (
    MAX_N,
    ChoicesRequest,
    Chunk,
    Engine,
    EngineStats,
    GenerationRequest,
    HiddenRequest,
    PromptRequest,
    PromptScores,
)
from zfleet.engine.streams import closing, merged
from zfleet.errors import DeadlineExceeded, RequestAborted
from zfleet.svf.zvector import ZVector
from zfleet_serve.access.amount import Amount
from zfleet_serve.access.context import RequestContext, current
from zfleet_serve.access.fair_queue import FairQueue
from zfleet_serve.access.limits import Rates

T = TypeVar("T")

PART = 4
"""The most answers of a request that are admitted together: one that asks for 128 leaves gaps for others."""
_FIRST_MEAN, _FORGETTING = 64.0, 0.05
"""Tokens that an answer is expected to have before there were any; how much each part changes that."""


@dataclass
class _Spent:
    """Tokens that one request of the engine has used."""

    tokens: int = 0


class LimitedEngine(Engine):
    """The engine contract over another engine, for the requests of many tenants.

    A task says by ``context.current`` whose request it works for. A request for many answers is admitted in parts;
    what is generated is the same. Tokens of a key's rate are reserved before a request waits.

    Args:
        engine: Generates.
        queue: Orders requests.
        rates: Counts tokens.
    """

    def __init__(self, engine: Engine, queue: FairQueue, rates: Rates) -> None:
        self.max_length = engine.max_length
        self._engine = engine
        self._queue = queue
        self._rates = rates
        self._mean = _FIRST_MEAN
        self._waiting: dict[str, set[asyncio.Timeout]] = {}

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """As ``Engine.generate``.

        Raises:
            LimitReached: Too few tokens are left of the key's rate.
            Overloaded: Too many requests wait.
            DeadlineExceeded: It is not complete at its deadline.
        """
        context, sampling = current.get(), request.sampling
        async with self._reserved(context, len(request.prompt) + sampling.n * sampling.max_tokens) as spent:
            parts = [self._part(context, request, first, spent) for first in range(0, sampling.n, PART)]
            async with aclosing(parts[0] if len(parts) == 1 else merged(parts)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def score_choices(self, request: ChoicesRequest) -> tuple[tuple[float, ...], ...]:
        """As ``Engine.score_choices``; raises as ``generate``."""
        tokens = len(request.prompt) + sum(map(len, request.completions))
        return await self._read(tokens, lambda: self._engine.score_choices(request))

    async def score_prompt(self, request: PromptRequest) -> PromptScores:
        """As ``Engine.score_prompt``; raises as ``generate``."""
        return await self._read(len(request.prompt), lambda: self._engine.score_prompt(request))

    async def hidden_state(self, request: HiddenRequest) -> tuple[float, ...]:
        """As ``Engine.hidden_state``; raises as ``generate``."""
        return await self._read(len(request.prompt), lambda: self._engine.hidden_state(request))

    async def put_z(self, z: ZVector) -> str:
        """As ``Engine.put_z``."""
        return await self._engine.put_z(z)

    async def drop_z(self, digest: str) -> None:
        """As ``Engine.drop_z``."""
        await self._engine.drop_z(digest)

    async def choose_directions(self, digests: Sequence[str], again: bool = False) -> None:
        """As ``Engine.choose_directions``."""
        await self._engine.choose_directions(digests, again)

    async def truncation_errors(self) -> dict[str, float]:
        """As ``Engine.truncation_errors``."""
        return await self._engine.truncation_errors()

    async def abort(self, request_id: str) -> None:
        """As ``Engine.abort``, also for requests that wait for their turn."""
        for waiting in self._waiting.get(request_id, ()):
            waiting.reschedule(0)
        for first in range(0, MAX_N, PART):
            await self._engine.abort(_part_id(request_id, first))

    async def stats(self) -> EngineStats:
        """As ``Engine.stats``; what waits here waits, too."""
        stats = await self._engine.stats()
        return replace(stats, waiting=stats.waiting + self._queue.waiting)

    async def check_health(self) -> None:
        """As ``Engine.check_health``."""
        await self._engine.check_health()

    async def close(self) -> None:
        """As ``Engine.close``."""
        await self._engine.close()

    async def _part(
        self, context: RequestContext, request: GenerationRequest, first: int, spent: _Spent
    ) -> AsyncGenerator[Chunk, None]:
        """Generate the answers from number ``first`` on."""
        count, prompt = min(PART, request.sampling.n - first), len(request.prompt)
        sampling = replace(request.sampling, n=count, first=request.sampling.first + first)
        part = replace(request, sampling=sampling, request_id=_part_id(request.request_id, first))
        # The engine reads the prompt for each part, or finds it in its cache; it is counted once.
        counted = Amount(prompt_tokens=0 if first else prompt)
        expected = prompt + count * min(sampling.max_tokens, self._mean)
        async with AsyncExitStack() as stack:
            async with self._until_aborted(request.request_id), _deadline(context):
                turn = await stack.enter_async_context(
                    self._queue.turn(context.tenant, count, expected, bounded=not first)
                )
            turn.used, tokens = prompt, 0
            chunks = await stack.enter_async_context(closing(self._engine.generate(part)))
            try:
                while (chunk := await _next(context, chunks)) is not None:
                    tokens += len(chunk.token_ids)
                    turn.used += len(chunk.token_ids)
                    if chunk.finish_reason is not None:
                        turn.end_one()
                    yield replace(chunk, index=first + chunk.index) if first else chunk
                self._mean += _FORGETTING * (tokens / count - self._mean)
            finally:
                counted += Amount(completion_tokens=tokens)
                context.count(counted)
                spent.tokens += counted.tokens

    async def _read(self, tokens: int, read: Callable[[], Awaitable[T]]) -> T:
        """Have the engine read tokens to choose who answers."""
        context = current.get()
        turn = self._queue.turn(context.tenant, 1, tokens)
        async with self._reserved(context, tokens) as spent, _deadline(context), turn:
            spent.tokens = tokens
            context.count(Amount(first_pass_tokens=tokens))
            return await read()

    @asynccontextmanager
    async def _until_aborted(self, request_id: str) -> AsyncIterator[None]:
        """Raise ``RequestAborted`` inside the block, in which a request waits, when it is aborted."""
        waiting = asyncio.timeout(None)
        self._waiting.setdefault(request_id, set()).add(waiting)
        try:
            async with waiting:
                yield
        except TimeoutError:
            if not waiting.expired():
                raise
            raise RequestAborted(f"request {request_id} was aborted", "send it again") from None
        finally:
            self._waiting[request_id].discard(waiting)
            if not self._waiting[request_id]:
                del self._waiting[request_id]

    @asynccontextmanager
    async def _reserved(self, context: RequestContext, tokens: int) -> AsyncIterator[_Spent]:
        """Reserve tokens of the key's rate; those that are not spent inside the block are given back."""
        spent = _Spent()
        if context.key is None:
            yield spent
            return
        reserved = await self._rates.reserve(context.key, tokens)
        try:
            yield spent
        finally:
            await self._rates.give_back(context.key, reserved, spent.tokens)


def _part_id(request_id: str, first: int) -> str:
    return f"{request_id}/{first}" if first else request_id


async def _next(context: RequestContext, chunks: AsyncIterator[Chunk]) -> Chunk | None:
    if context.deadline is None:  # most services: a block for each token would cost as much as the rest
        return await anext(chunks, None)
    async with _deadline(context):
        return await anext(chunks, None)


@asynccontextmanager
async def _deadline(context: RequestContext) -> AsyncIterator[None]:
    """Raise ``DeadlineExceeded`` when the request's deadline passes inside the block."""
    if context.deadline is None:
        yield
        return
    try:
        async with asyncio.timeout_at(context.deadline) as deadline:
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
        raise DeadlineExceeded(
            "the request was not complete at the service's deadline", "ask for shorter or fewer answers, or try later"
        ) from None
