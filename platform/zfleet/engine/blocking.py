"""A synchronous adapter over the async engine contract, for learning and search."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import wait
from typing import Any, TypeVar

from zfleet.engine.contract import (
    ChoicesRequest,
    Completion,
    Engine,
    EngineStats,
    GenerationRequest,
    HiddenRequest,
    ScoreRequest,
    collect,
)
from zfleet.errors import EngineError
from zfleet.openmp import end_helpers
from zfleet.svf.zvector import ZVector

T = TypeVar("T")

_LOOK_SECONDS = 1.0
"""How often a waiting caller checks that the thread is alive."""


class SyncEngine:
    """Run an engine's event loop in a thread of its own.

    Use it as a context manager; the engine is closed at the end. An error in one request is raised once the
    others of the same call have finished.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="zfleet-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> SyncEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put_z(self, z: ZVector) -> str:
        """As ``Engine.put_z``."""
        return self.run(self.engine.put_z(z))

    def drop_z(self, digest: str) -> None:
        """As ``Engine.drop_z``."""
        self.run(self.engine.drop_z(digest))

    def choose_directions(self, digests: Sequence[str], again: bool = False) -> None:
        """As ``Engine.choose_directions``."""
        self.run(self.engine.choose_directions(digests, again))

    def generate(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        """Return all answers of all requests, in order. Requests are submitted at once and share batches."""
        return self.run(_gather([collect(self.engine, request) for request in requests]))

    def score(self, requests: Sequence[ScoreRequest]) -> list[tuple[float, ...]]:
        """Score all requests, in order. As ``Engine.score`` for each."""
        return self.run(_gather([self.engine.score(request) for request in requests]))

    def score_choices(self, requests: Sequence[ChoicesRequest]) -> list[tuple[tuple[float, ...], ...]]:
        """Score the completions of all requests, in order. As ``Engine.score_choices`` for each."""
        return self.run(_gather([self.engine.score_choices(request) for request in requests]))

    def hidden_states(self, requests: Sequence[HiddenRequest]) -> list[tuple[float, ...]]:
        """Average the hidden states of all prompts, in order. As ``Engine.hidden_state`` for each."""
        return self.run(_gather([self.engine.hidden_state(request) for request in requests]))

    def stats(self) -> EngineStats:
        """As ``Engine.stats``."""
        return self.run(self.engine.stats())

    def close(self) -> None:
        """Close the engine and end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        self.run(self.engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run any work on the engine, such as a dispatch, in its event loop.

        Raises:
            EngineError: The thread of the event loop died: nothing would ever answer.
        """
        # The engine computes in another thread.
        end_helpers()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while not wait([future], _LOOK_SECONDS).done:
            if not self._thread.is_alive():
                work.close()
                raise EngineError("the thread of the engine's event loop died", "open the engine again")
        return future.result()


async def _gather(work: list[Coroutine[Any, Any, T]]) -> list[T]:
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
