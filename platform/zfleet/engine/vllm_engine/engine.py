"""vLLM behind the engine contract: its scheduler, paging, prefix cache and parallelism, our z per request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from zfleet.config.specs import EngineSpec
from zfleet.engine.admission import AwaitedAdmission
from zfleet.engine.contract import (
    ChoicesRequest,
    Chunk,
    Engine,
    EngineStats,
    GenerationRequest,
    HiddenRequest,
    PromptRequest,
    PromptScores,
)
from zfleet.engine.prompts import Prompts, Tokens
from zfleet.engine.streams import merged
from zfleet.engine.vllm_engine.directions import Directions, SingularValues
from zfleet.engine.vllm_engine.failures import aborted, closed, died, keeps_dying
from zfleet.engine.vllm_engine.linears.step_rows import Assignment
from zfleet.engine.vllm_engine.llm import EngineDied
from zfleet.engine.vllm_engine.plan import VllmPlan
from zfleet.engine.vllm_engine.processes import Run, VllmCore, WorkerState
from zfleet.engine.vllm_engine.reading import HiddenReader, Send, score_choices, score_prompt
from zfleet.engine.vllm_engine.sent_table import SentTable
from zfleet.engine.vllm_engine.translation import chunk, generation_arguments
from zfleet.engine.z_table import ZEntry
from zfleet.errors import EngineError
from zfleet.models.bundle import BaseBundle
from zfleet.svf.zvector import ZVector

if TYPE_CHECKING:
    import vllm

T = TypeVar("T")

_ATTEMPTS = 3
"""How often a request is tried if the engine dies before the request's first output."""


class VllmEngine(Engine):
    """Generates on vLLM, whose processes hold the base, its factors and the rows of the z table."""

    def __init__(self, core: VllmCore, tokenizer: PreTrainedTokenizerBase, spec: EngineSpec) -> None:
        """Use processes that run and that no other engine uses.

        Args:
            core: The processes, started.
            tokenizer: The tokenizer of the base.
            spec: Slots and rows, at most as many as the processes were started with.
        """
        plan = core.plan
        self.max_length = plan.max_length
        self._core = core
        self._factors = plan.factors
        self._prompts = Prompts(tokenizer, plan.vocabulary, plan.max_length)
        self._forgotten: list[str] = []
        self._sending = asyncio.Lock()
        self._table = SentTable(self._factors.layout.size, spec.z_rows, self._forgotten)
        self._admission = AwaitedAdmission(self._table, spec.slots)
        self._runs: dict[Run, str] = {}
        self._numbers = count()
        self._hidden = HiddenReader(self._take_hidden, _ATTEMPTS)
        self._delta = spec.vllm.form.delta
        self._directions: Directions | None = None
        self._choosing = asyncio.Lock()
        self._generated = 0
        self._closed = False

    @classmethod
    async def open(cls, bundle: BaseBundle, spec: EngineSpec) -> VllmEngine:
        """Start vLLM on a packed base. Takes 10 to 30 seconds.

        Raises:
            EngineError: vLLM is missing, untested or does not start, or cannot run this base on this device.
            BaseModelError, FactorsError: The base or its factors cannot be opened.
        """
        core = VllmCore(await asyncio.to_thread(VllmPlan.unpack, bundle, spec))
        await core.start()
        return cls(core, bundle.tokenizer(), spec)

    async def put_z(self, z: ZVector) -> str:
        layout = self._factors.layout
        z.check_fits(base=self._core.plan.base, factors=self._factors.digest, layout=layout)
        flat = z.flat(layout)
        if not self._table.knows(z.digest):
            async with self._sending:
                await self._forget()
                await self._send(z.digest, flat)
        return z.digest

    async def drop_z(self, digest: str) -> None:
        self._table.drop(digest)
        async with self._sending:
            await self._forget()

    async def choose_directions(self, digests: Sequence[str], again: bool = False) -> None:
        self._check_open()
        delta = self._delta
        if delta is None:
            return
        with self._table.using(digests) as entries:
            async with self._choosing:
                if self._directions is not None and not again:
                    return
                z = torch.stack([entry.flat for entry in entries])
                singular = SingularValues(await self._insist(self._core.singular_values), self._factors.layout)
                kept = await asyncio.to_thread(singular.choose, z, delta)
                number = self._directions.number + 1 if self._directions else 1
                async with self._admission.empty():
                    kept = await self._insist(lambda: self._core.set_directions(kept))
                    self._directions = Directions(kept, number, singular, delta.error)

    async def truncation_errors(self) -> dict[str, float]:
        if self._delta is None:
            return {}
        directions = self._directions
        if directions is None:
            return dict.fromkeys(self._table.values, 0.0)
        return {digest: directions.error(digest, z) for digest, z in self._table.values.items()}

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        self._check_open()
        prompt = self._prompts.generation(request)
        with self._table.using([request.z_digest] * request.sampling.n) as entries:
            answers = [self._answer(request, index, prompt, entry) for index, entry in enumerate(entries)]
            async with aclosing(answers[0] if len(answers) == 1 else merged(answers)) as chunks:
                async for chunk in chunks:
                    self._generated += len(chunk.token_ids)
                    yield chunk

    async def score_choices(self, request: ChoicesRequest) -> tuple[tuple[float, ...], ...]:
        prompt, completions = self._prompts.choices(request)
        async with self._reading(request.z_digest) as send:
            return await score_choices(send, prompt, completions)

    async def score_prompt(self, request: PromptRequest) -> PromptScores:
        prompt = self._prompts.reading(request)
        async with self._reading(request.z_digest) as send:
            return await score_prompt(send, prompt, request.top_logprobs)

    async def hidden_state(self, request: HiddenRequest) -> tuple[float, ...]:
        prompt = self._prompts.reading(request)
        async with self._reading(request.z_digest) as send:
            return await self._hidden.mean(send, prompt)

    async def abort(self, request_id: str) -> None:
        self._admission.refuse(aborted(request_id), request_id)
        await self._core.abort(run for run, name in self._runs.items() if name == request_id)

    async def stats(self) -> EngineStats:
        batch, distinct = await self._insist(lambda: self._core.call("zfleet_peaks"))
        return EngineStats(
            running=self._admission.running,
            waiting=self._admission.waiting,
            known_z=self._table.known,
            resident_z=self._table.resident,
            table_rows=self._table.rows,
            generated_tokens=self._generated,
            peak_batch=batch,
            peak_distinct_z=distinct,
        )

    async def check_health(self) -> None:
        self._check_open()
        self._admission.check()
        await self._core.check_health(self._state)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._admission.refuse(closed())
        await self._core.abort(self._runs)
        await self._core.close()

    async def _answer(
        self, request: GenerationRequest, index: int, prompt: Tokens, entry: ZEntry
    ) -> AsyncGenerator[Chunk, None]:
        sampling = generation_arguments(request, index)
        async with self._admitted(entry, request.request_id) as send, aclosing(send(prompt, sampling)) as outputs:
            async for output in outputs:
                # A worker runs a request only on a row that holds this z; see ``StepRows``.
                yield chunk(request, index, output.outputs[0], len(prompt), entry.digest)

    @asynccontextmanager
    async def _reading(self, z_digest: str) -> AsyncIterator[Send]:
        """As ``_admitted``, for a request that nobody aborts by name."""
        self._check_open()
        with self._table.using([z_digest]) as (entry,):
            async with self._admitted(entry, uuid4().hex) as send:
                yield send

    @asynccontextmanager
    async def _admitted(self, entry: ZEntry, request_id: str) -> AsyncIterator[Send]:
        """Wait for a slot and a row, and hold them inside the block, where any number of requests may run on them."""
        row = await self._admission.enter(entry, request_id)
        try:
            exact = not self._fits(entry)
            yield partial(self._run, Assignment(row, entry.digest, exact), self._salt(entry, exact), request_id)
        finally:
            self._admission.leave(entry)

    async def _run(
        self, z: Assignment, salt: str, request_id: str, prompt: Tokens, sampling: dict[str, Any]
    ) -> AsyncGenerator[vllm.RequestOutput, None]:
        """Run one request of vLLM. Retry if the engine dies before its first output."""
        for _ in range(_ATTEMPTS):
            generation, answered = self._core.generation, False
            run = Run(f"{request_id}-{next(self._numbers)}")
            self._runs[run] = request_id
            try:
                async with aclosing(self._core.generate(prompt, sampling, z, salt, run)) as outputs:
                    async for output in outputs:
                        self._check_whole(output.outputs[0].finish_reason, run, request_id)
                        answered = True
                        yield output
                return
            except EngineDied:
                if answered:
                    raise died(request_id) from None
                await self._revive(generation)
            finally:
                del self._runs[run]
        raise keeps_dying(_ATTEMPTS)

    async def _take_hidden(self, key: str, abandoned: Sequence[str]) -> tuple[float, ...] | None:
        return await self._insist(lambda: self._core.take_hidden(key, abandoned))

    def _check_whole(self, reason: str | None, run: Run, request_id: str) -> None:
        """Raise if vLLM cut the request off: a reader gets a whole answer or an error."""
        if run.aborted:
            raise closed() if self._closed else aborted(request_id)
        if reason not in (None, "stop", "length"):
            raise EngineError(f"vLLM ended request {request_id} with {reason!r}", "send it again")

    def _fits(self, entry: ZEntry) -> bool:
        """Say whether a z is computed with the chosen directions."""
        return self._directions is not None and self._directions.fits(entry.digest, entry.flat)

    def _salt(self, entry: ZEntry, exact: bool) -> str:
        """Name the requests that may share a cached prefix. Keys and values depend on the z and on the directions."""
        if exact or self._directions is None:
            return entry.digest
        return f"{entry.digest}/{self._directions.number}"

    async def _send(self, digest: str, flat: Tensor) -> None:
        """Send a z to the workers. Send it again if they were restarted meanwhile."""
        while True:
            generation = self._core.generation
            await self._insist(lambda: self._core.put(digest, flat))
            if generation == self._core.generation:
                self._table.put(digest, flat)
                return

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Call the workers. Restart them and try again if they die over it."""
        for _ in range(_ATTEMPTS):
            self._check_open()
            generation = self._core.generation
            try:
                return await work()
            except EngineDied:
                await self._revive(generation)
        raise keeps_dying(_ATTEMPTS)

    async def _revive(self, generation: int) -> None:
        self._check_open()
        await self._core.revive(generation, self._state)

    def _state(self) -> WorkerState:
        return WorkerState(self._table.values, self._directions.kept if self._directions else None)

    async def _forget(self) -> None:
        """Have the workers forget what nobody needs. The caller holds ``_sending``, which keeps the order with puts."""
        while self._forgotten:
            digest = self._forgotten[-1]
            if not self._table.knows(digest):
                await self._insist(partial(self._core.drop, digest))
                if self._directions is not None:
                    self._directions.forget(digest)
            self._forgotten.remove(digest)

    def _check_open(self) -> None:
        if self._closed:
            raise closed()
