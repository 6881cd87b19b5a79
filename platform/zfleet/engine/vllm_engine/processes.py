"""The processes of one vLLM engine: starting them, calling them, and restarting them after they died.

Relies on vLLM's ``tokens_input`` and ``AsyncLLM``: ``add_request`` and the collector it returns (``get_nowait``,
``get``, ``close``), ``abort``, ``collective_rpc``, ``errored``, ``shutdown``; and on aborts and requests reaching the
processes in the order in which they were sent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zfleet.engine.vllm_engine.failures import closed
from zfleet.engine.vllm_engine.linears.step_rows import Assignment
from zfleet.engine.vllm_engine.llm import EngineDied, call_workers, launch
from zfleet.engine.vllm_engine.plan import SETTINGS, VllmPlan
from zfleet.errors import EngineError, ZfleetError
from zfleet.supervise import HANG_SECONDS, guarded

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

_STOP_SECONDS = 10.0
_START_SECONDS = 1800.0
"""A start that takes longer hangs; loading a large base takes minutes."""


@dataclass(frozen=True)
class WorkerState:
    """What workers must be told when they start.

    Attributes:
        known: {digest: z [R] float32} of every z.
        kept: The directions of form ``delta``, if they were chosen: [R] bool.
    """

    known: Mapping[str, Tensor]
    kept: Tensor | None = None


State = Callable[[], WorkerState]
"""Returns the state at the moment of the call."""


@dataclass(eq=False)
class Run:
    """One request inside vLLM.

    Attributes:
        name: Its id in vLLM.
        added: Whether vLLM knows it.
        aborted: Whether it must stop.
    """

    name: str
    added: bool = False
    aborted: bool = False


class VllmCore:
    """One ``AsyncLLM``. A caller that sees its processes dead calls ``revive``.

    Attributes:
        plan: The base and the arguments that it runs with.
        generation: Number of starts so far. A failure belongs to the generation in which it happened.
    """

    def __init__(self, plan: VllmPlan) -> None:
        self.plan = plan
        self.generation = 0
        self._llm: AsyncLLM | None = None
        self._starting = asyncio.Lock()
        self._revival: asyncio.Task[None] | None = None
        self._revival_began = 0.0
        self._failed_start: ZfleetError | None = None
        self._closed = False

    async def start(self) -> None:
        """Start the processes. Takes 10 to 30 seconds.

        Raises:
            EngineError: vLLM does not start, or has no linear for a matrix that has factors.
        """
        async with self._starting:
            await self._start(lambda: WorkerState({}))

    async def revive(self, generation: int, state: State) -> None:
        """Restart dead processes, once for all callers. They serve nobody before every z is known again.

        Args:
            generation: The generation that died.
            state: See ``State``.

        Raises:
            EngineError: They do not start now; the next call tries again.
        """
        self._begin_revival(generation, state)
        if self._revival is not None:
            # Shielded: a cancelled request must not end a restart that other requests await.
            await asyncio.shield(self._revival)
        self._check_started()

    async def generate(
        self, prompt: tuple[int, ...], sampling: dict[str, Any], z: Assignment, salt: str, run: Run
    ) -> AsyncGenerator[RequestOutput, None]:
        """Run one request.

        Args:
            prompt: Token ids.
            sampling: Arguments of vLLM's ``SamplingParams``; ``extra_args`` go beside ours.
            z: What it runs under.
            salt: Requests with the same salt share the keys and values of a common prefix.
            run: The request; ``abort`` may have marked it before vLLM knows it.

        Raises:
            EngineDied: The processes are gone.
        """
        llm = self._running
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        extra = {SETTINGS: list(z), **sampling.get("extra_args", {})}
        params = SamplingParams(**{**sampling, "extra_args": extra})
        tokens = tokens_input(list(prompt), cache_salt=salt)
        outputs, finished = None, False
        try:
            try:
                outputs = await llm.add_request(run.name, tokens, params)
                run.added = True
                if run.aborted:
                    await llm.abort(run.name)
                while not finished:
                    output = outputs.get_nowait() or await outputs.get()
                    finished = output.finished
                    yield output
            finally:
                if not finished:
                    await llm.abort(run.name)
                if outputs is not None:
                    outputs.close()
        except EngineDeadError:
            raise EngineDied from None

    async def abort(self, runs: Iterable[Run]) -> None:
        """Stop requests, also those that vLLM does not know yet."""
        runs = list(runs)
        for run in runs:
            run.aborted = True
        names = [run.name for run in runs if run.added]
        if self._llm is not None and names:
            await self._llm.abort(names)

    async def put(self, digest: str, flat: Tensor) -> None:
        """Send a z [R] float32 to every worker."""
        await self.call("zfleet_put", digest, flat.numpy().tobytes())

    async def drop(self, digest: str) -> None:
        """Have every worker forget a z."""
        await self.call("zfleet_drop", digest)

    async def take_hidden(self, key: str, abandoned: Sequence[str]) -> tuple[float, ...] | None:
        """As ``HiddenSums.take``."""
        data = await self.call("zfleet_take_hidden", key, list(abandoned))
        return tuple(torch.frombuffer(bytearray(data), dtype=torch.float32).tolist()) if data else None

    async def singular_values(self) -> Tensor:
        """Return the singular values of all matrices: [R] float32."""
        return torch.frombuffer(bytearray(await self.call("zfleet_singular_values")), dtype=torch.float32)

    async def set_directions(self, kept: Tensor) -> Tensor:
        """Have every worker compute with the directions ``kept`` [R] bool, in form ``delta``. No step may be under way.

        Returns:
            Those that they compute with, [R] bool: more where all directions of a matrix cost less.
        """
        data = await self.call("zfleet_set_directions", kept.numpy().tobytes())
        return torch.frombuffer(bytearray(data), dtype=torch.bool)

    async def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the worker extension on every worker. Returns the first worker's result.

        Raises:
            EngineDied: The processes are gone.
            EngineError: The method failed.
        """
        return await call_workers(self._running, method, *arguments)

    async def check_health(self, state: State) -> None:
        """Check that the processes answer or are being restarted. Restart them if they died.

        Args:
            state: See ``State``.

        Raises:
            EngineError: They do not answer, or the last restart failed or hangs.
        """
        self._check_started()
        if self._reviving:
            if monotonic() - self._revival_began > _START_SECONDS:
                raise EngineError(f"vLLM has been starting for {_START_SECONDS:.0f} s", "start the engine again")
            return
        generation = self.generation
        try:
            async with asyncio.timeout(HANG_SECONDS):
                await self.call("zfleet_peaks")
        except EngineDied:
            self._begin_revival(generation, state)  # the next check sees the outcome
        except TimeoutError:
            raise EngineError(f"vLLM has not answered for {HANG_SECONDS:.0f} s", "start the engine again") from None

    async def close(self) -> None:
        """End the processes, also those of a start under way. Idempotent."""
        self._closed = True
        async with self._starting:
            await self._stop()

    @property
    def _reviving(self) -> bool:
        return self._revival is not None and not self._revival.done()

    @property
    def _running(self) -> AsyncLLM:
        if self._closed:
            raise closed()
        if self._llm is None:
            raise EngineDied
        return self._llm

    def _begin_revival(self, generation: int, state: State) -> None:
        if generation == self.generation and not self._reviving:
            self._revival_began = monotonic()
            self._revival = asyncio.create_task(self._restart(state))

    async def _restart(self, state: State) -> None:
        with guarded("restarting vLLM", self._note_failed_start):
            async with self._starting:
                await self._stop()
                await self._start(state)

    def _check_started(self) -> None:
        if self._failed_start is not None:
            raise EngineError(self._failed_start.message, self._failed_start.remedy)

    def _note_failed_start(self, error: ZfleetError) -> None:
        self._failed_start = error

    async def _stop(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown, timeout=_STOP_SECONDS)

    async def _start(self, state: State) -> None:
        # Returned through a list: the thread pool would keep a result alive beyond the engine's end.
        started: list[AsyncLLM] = []
        await asyncio.to_thread(lambda: started.append(launch(self.plan)))
        llm = started.pop()
        try:
            covered = await call_workers(llm, "zfleet_open", os.getpid())
            if uncovered := sorted(set(self.plan.factors.names) - set(covered)):
                raise EngineError(
                    f"vLLM has no linear for {uncovered[0]!r}, which targets {self.plan.factors.targets!r} name",
                    "use targets within attention and MLP, or `engine: torch`",
                )
            told = state()
            for digest, flat in told.known.items():
                await call_workers(llm, "zfleet_put", digest, flat.numpy().tobytes())
            if told.kept is not None:
                await call_workers(llm, "zfleet_set_directions", told.kept.numpy().tobytes())
            if self._closed:
                raise closed()
        except BaseException as error:
            llm.shutdown(timeout=_STOP_SECONDS)
            if isinstance(error, EngineDied):
                raise EngineError("vLLM died while it started", "its own messages say why") from None
            raise
        self._llm, self._failed_start = llm, None
        self.generation += 1
