"""The hooks that an engine's author provides, and helpers of the conformance suite."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from zfleet.engine.contract import BASE_Z, Completion, Engine, GenerationRequest, SamplingParams, collect
from zfleet.svf.zvector import ZVector

Prompt = str | tuple[int, ...]


class EngineHarness(ABC):
    """The hooks of the conformance suite. Everything else follows from the contract.

    Attributes:
        prompts: At least six different prompts of different lengths, as token ids.
        long_tokens: Length of an answer that fits, and takes long enough to be aborted before its end.
    """

    prompts: Sequence[tuple[int, ...]]
    long_tokens: int = 200

    @abstractmethod
    async def make_engine(self, *, z_rows: int, slots: int) -> Engine:
        """Make an engine with so many rows in its z table, the base's included, and so many slots."""

    @abstractmethod
    def make_z(self, seed: int) -> ZVector:
        """Make a z that the engine accepts, different enough from the base and from other seeds to change answers."""

    @asynccontextmanager
    async def engine(self, *, z_rows: int = 8, slots: int = 16) -> AsyncIterator[Engine]:
        """Make an engine, and close it at the end of the block."""
        engine = await self.make_engine(z_rows=z_rows, slots=slots)
        try:
            yield engine
        finally:
            await engine.close()

    async def _until(self, engine: Engine, *, running: int | None = None, waiting: int | None = None) -> None:
        """Wait until at least so many answers run or wait; 0 waits until none does."""
        for _ in range(1000):
            stats = await engine.stats()
            if _reached(stats.running, running) and _reached(stats.waiting, waiting):
                return
            await asyncio.sleep(0.01 if stats.running else 0)
        raise AssertionError(f"after 10 s: {stats}")


def _reached(count: int, target: int | None) -> bool:
    return target is None or (count >= target if target else count == 0)


def greedy(prompt: Prompt, z_digest: str = BASE_Z, max_tokens: int = 12) -> GenerationRequest:
    """Request the most likely answer of a fixed length."""
    return GenerationRequest(prompt, SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True), z_digest)


def sampled(
    prompt: Prompt, seed: int | None, z_digest: str = BASE_Z, *, n: int = 1, max_tokens: int = 12
) -> GenerationRequest:
    """Request answers of a fixed length, sampled at temperature 1."""
    return GenerationRequest(prompt, SamplingParams(seed=seed, n=n, max_tokens=max_tokens, ignore_eos=True), z_digest)


async def run(engine: Engine, request: GenerationRequest) -> Completion:
    """Return the only answer of a request."""
    (completion,) = await collect(engine, request)
    return completion


async def run_all(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Completion]:
    """Return the only answer of each request; all run at once."""
    return await asyncio.gather(*(run(engine, request) for request in requests))


async def put_all(engine: Engine, zs: Sequence[ZVector]) -> list[str]:
    """Put all z-vectors and return their digests."""
    return [await engine.put_z(z) for z in zs]
