"""The processes of one vLLM engine: how they are started, spoken to, and started again after they died.

Relies on vLLM's ``tokens_input`` and ``AsyncLLM``: ``add_request`` and what it gives back (``get_nowait``, ``get``,
``close``), ``abort``, ``collective_rpc``, ``errored``, ``shutdown``; and on its sending aborts and requests to its
processes in the order in which they were given.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zfleet.engine.vllm_engine.plan import SETTINGS, VllmPlan
from zfleet.errors import EngineError, ZfleetError
from zfleet.supervise import HANG_SECONDS, guarded

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

_POLL_SECONDS = 1.0
_STOP_SECONDS = 10.0
_START_SECONDS = 1800.0
"""A start that takes longer hangs; loading a large base takes minutes."""

Known = Callable[[], Mapping[str, Tensor]]
"""Gives {digest: z [R] float32} of all that the workers must know."""


@dataclass(eq=False)
class Run:
    """One request of vLLM's.

    Attributes:
        name: What vLLM calls it.
        added: vLLM knows it.
        aborted: It is to stop.
    """

    name: str
    added: bool = False
    aborted: bool = False


class EngineDied(Exception):
    """The processes are gone; ``VllmCore.revive`` starts them again."""


class VllmCore:
    """One ``AsyncLLM``. When its processes die, whoever notices calls ``revive``.

    Attributes:
        plan: What it runs.
        generation: Counts the starts: a failure belongs to the generation it happened in.
    """

    def __init__(self, plan: VllmPlan) -> None:
        self.plan = plan
        self.generation = 0
        self._llm: AsyncLLM | None = None
        self._starting = asyncio.Lock()
        self._revival: asyncio.Task[None] | None = None
        self._revival_began: float | None = None
        self._failed_start: ZfleetError | None = None
        self._closed = False

    async def start(self) -> None:
        """Start the processes; takes 10 to 30 seconds.

        Raises:
            EngineError: vLLM does not start, or has no linear for a matrix that has factors.
        """
        async with self._starting:
            try:
                await self._start(dict)
            except BaseException:
                self.plan.folder.cleanup()
                raise

    async def revive(self, generation: int, known: Known) -> None:
        """Start again what died, once for all that noticed. Nobody is served before every z is known again.

        Args:
            generation: The one that was found dead.
            known: Gives {digest: z [R]}.

        Raises:
            EngineError: It does not start again now; the next call may.
        """
        self._begin_revival(generation, known)
        if self._revival is not None:
            # Shielded: the start goes on when a request that awaits it is cancelled, because others await it too.
            await asyncio.shield(self._revival)
        if self._failed_start is not None:
            raise self._failed_start

    async def generate(
        self, prompt: tuple[int, ...], sampling: dict[str, Any], z: tuple[int, str], salt: str, run: Run
    ) -> AsyncGenerator[RequestOutput, None]:
        """Run one request.

        Args:
            prompt: Token ids.
            sampling: Arguments of vLLM's ``SamplingParams``.
            z: Row of the table and digest.
            salt: Requests of the same salt share the keys and values of a common prefix.
            run: Names the request; it is aborted when ``run.aborted`` says so.

        Raises:
            EngineDied: The processes are gone.
        """
        llm = self._running
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        params = SamplingParams(**sampling, extra_args={SETTINGS: list(z)})
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
        """Stop requests, also those that vLLM has not heard of yet."""
        runs = list(runs)
        for run in runs:
            run.aborted = True
        names = [run.name for run in runs if run.added]
        if self._llm is not None and names:
            await self._llm.abort(names)

    async def put(self, digest: str, flat: Tensor) -> None:
        """Send a z [R] float32 to every worker."""
        await self.call("zfleet_put", digest, _bytes(flat))

    async def drop(self, digest: str) -> None:
        """Have every worker forget a z."""
        await self.call("zfleet_drop", digest)

    async def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the worker extension on every worker; what the first gives back.

        Raises:
            EngineDied: The processes are gone.
            EngineError: The method failed.
        """
        return await _call(self._running, method, *arguments)

    async def check_health(self, known: Known) -> None:
        """See that the processes answer, or are being started again; start them again if they died.

        Args:
            known: As in ``revive``.

        Raises:
            EngineError: They do not answer, or did not start again.
        """
        if self._failed_start is not None:
            raise self._failed_start
        if self._revival_began is not None:
            if monotonic() - self._revival_began > _START_SECONDS:
                raise EngineError(f"vLLM has been starting for {_START_SECONDS:.0f} s", "start the engine again")
            return
        generation = self.generation
        try:
            async with asyncio.timeout(HANG_SECONDS):
                await self.call("zfleet_peaks")
        except EngineDied:
            self._begin_revival(generation, known)  # the next check sees how that went
        except TimeoutError:
            raise EngineError(f"vLLM has not answered for {HANG_SECONDS:.0f} s", "start the engine again") from None

    async def close(self) -> None:
        """End the processes; those of a start under way too. Idempotent."""
        self._closed = True
        async with self._starting:
            await self._stop()
            self.plan.folder.cleanup()

    @property
    def _running(self) -> AsyncLLM:
        if self._closed:
            raise closed()
        if self._llm is None:
            raise EngineDied
        return self._llm

    def _begin_revival(self, generation: int, known: Known) -> None:
        under_way = self._revival is not None and not self._revival.done()
        if generation == self.generation and not under_way:
            self._revival = asyncio.create_task(self._start_again(known))

    async def _start_again(self, known: Known) -> None:
        self._revival_began = monotonic()
        try:
            with guarded("starting vLLM again", self._note_failed_start):
                async with self._starting:
                    await self._stop()
                    await self._start(known)
        finally:
            self._revival_began = None

    def _note_failed_start(self, error: ZfleetError) -> None:
        self._failed_start = error

    async def _stop(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown, timeout=_STOP_SECONDS)

    async def _start(self, known: Known) -> None:
        # Not as the thread's result, which its pool would keep alive beyond the engine's end.
        started: list[AsyncLLM] = []
        await asyncio.to_thread(lambda: started.append(_launch(self.plan)))
        llm = started.pop()
        try:
            covered = await _call(llm, "zfleet_open", os.getpid())
            if lost := sorted(set(self.plan.factors.names) - set(covered)):
                raise EngineError(
                    f"vLLM has no linear for {lost[0]!r}, which targets {self.plan.factors.targets!r} name",
                    "use targets within attention and MLP, or `engine: torch`",
                )
            for digest, flat in known().items():
                await _call(llm, "zfleet_put", digest, _bytes(flat))
            if self._closed:
                raise closed()
        except BaseException as error:
            llm.shutdown(timeout=_STOP_SECONDS)
            if isinstance(error, EngineDied):
                raise EngineError("vLLM died while it started", "its own messages say why") from None
            raise
        self._llm, self._failed_start = llm, None
        self.generation += 1


def closed() -> EngineError:
    """What every call of a closed engine raises."""
    return EngineError("the engine is closed", "start an engine and send the request again")


def _launch(plan: VllmPlan) -> AsyncLLM:
    plan.set_environment()
    # Importing vLLM takes seconds and sets up logging: only where it is used, after the environment is set.
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    import zfleet.engine.vllm_engine.worker  # noqa: F401  (makes our linears known to vLLM by name)

    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**plan.arguments()))
    except (RuntimeError, ValueError, OSError) as error:
        raise EngineError(
            f"vLLM does not start on base {plan.base[:12]}: {str(error).strip().splitlines()[0]}",
            "its own messages above say why; engine.vllm.cache_gib and engine.max_length decide what memory it needs",
        ) from error


async def _call(llm: AsyncLLM, method: str, *arguments: object) -> Any:
    from vllm.v1.engine.exceptions import EngineDeadError

    call = asyncio.ensure_future(llm.collective_rpc(method, args=arguments))
    try:
        # vLLM never answers a call whose engine dies over it.
        while not (await asyncio.wait([call], timeout=_POLL_SECONDS))[0]:
            if llm.errored:
                raise EngineDied
        return call.result()[0]
    except EngineDeadError:
        raise EngineDied from None
    except EngineDied:
        raise
    except Exception as error:  # vLLM passes a worker's error on as a bare Exception
        raise EngineError(f"vLLM's worker failed in {method}: {error}", "its own messages say why") from error
    finally:
        call.cancel()


def _bytes(flat: Tensor) -> bytes:
    data: bytes = flat.numpy().tobytes()
    return data
