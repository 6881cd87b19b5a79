"""The embedded engine: continuous batching in plain PyTorch, every row of the batch under its own z.

The event loop owns the queue; forward passes run in one worker thread, so that a server stays responsive. One step
admits waiting requests, runs their prompts or pieces of them, and adds a token to every running sequence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from zfleet.config.specs import EngineSpec
from zfleet.engine.admission import Admission
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
from zfleet.engine.torch_engine.batch import Results, Sampled, TorchBatch
from zfleet.engine.torch_engine.limits import check_length, check_whole, piece_tokens
from zfleet.engine.torch_engine.prompt import Prompt
from zfleet.engine.torch_engine.schedule import Schedule, Work
from zfleet.engine.torch_engine.sequence import SequenceState, Sink
from zfleet.engine.torch_engine.single_pass import Pooling, PromptScoring, Scoring, SinglePass
from zfleet.engine.torch_engine.text import eos_tokens
from zfleet.engine.z_table import TensorZTable, ZEntry
from zfleet.errors import EngineError, RequestAborted, ZfleetError
from zfleet.models.images import Images
from zfleet.models.svf_model import SvfModel
from zfleet.openmp import end_helpers
from zfleet.supervise import WorkLoop, guarded
from zfleet.svf.zvector import ZVector, flat_digest

T = TypeVar("T")

_NAME = "the loop of TorchEngine"


class TorchEngine(Engine):
    """Generates on the model it is given, which it may share with a learner."""

    def __init__(self, model: SvfModel, spec: EngineSpec | None = None) -> None:
        """Prepare an engine; its loop starts with the first request.

        Args:
            model: The base in SVF form.
            spec: Slots, longest sequence and table rows.

        Raises:
            BaseModelError: At this length, the base uses an attention that this engine does not have.
            EngineError: The model is split over processes.
        """
        check_whole(model)
        spec = spec or EngineSpec()
        self.model = model
        self.max_length = spec.longest(model.base.context)
        check_length(model.base, self.max_length)
        base = model.base
        reader = base.vision.reader if base.vision is not None else None
        self._prompts = Prompts(base.tokenizer, int(base.model.config.vocab_size), self.max_length, reader)
        digest = partial(flat_digest, layout=model.layout, factors=model.factors.digest)
        self._table = TensorZTable(model.layout.size, spec.z_rows, model.device, digest)
        self._admission: Admission[Work] = Admission(self._table, spec.slots)
        self._schedule = Schedule(self._admission, piece_tokens(model))
        self._batch = TorchBatch(model, self._table, spec.slots)
        self._eos = eos_tokens(model.base)
        self._aborted: set[str] = set()
        self._reading: dict[object, str] = {}
        self._loop = WorkLoop(_NAME, self._turn, self._fail_all)
        self._pool = ThreadPoolExecutor(1, "zfleet-torch-engine")
        self._closed = False
        self._generated = self._peak_batch = self._peak_z = 0

    async def put_z(self, z: ZVector) -> str:
        self.model.check(z)
        self._table.put(z.digest, z.flat(self.model.layout))
        return z.digest

    async def drop_z(self, digest: str) -> None:
        self._table.drop(digest)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        reading = object()
        self._reading[reading] = request.request_id
        try:
            await self._read_images(request.images)
        finally:
            aborted = self._reading.pop(reading, None) is None
        if aborted:
            raise _aborted(request.request_id)
        sink: Sink = asyncio.Queue()
        self._wake()
        self._admission.queue(self._begin(request, sink))
        unfinished = request.sampling.n
        try:
            while unfinished:
                item = await sink.get()
                if isinstance(item, Exception):
                    raise item
                unfinished -= item.finish_reason is not None
                yield item
        finally:
            if unfinished:
                await self.abort(request.request_id)

    async def score_choices(self, request: ChoicesRequest) -> tuple[tuple[float, ...], ...]:
        await self._read_images(request.images)
        prompt, completions = self._prompts.choices(request)
        return await self._in_one_pass(request, prompt, partial(Scoring, completions=completions))

    async def score_prompt(self, request: PromptRequest) -> PromptScores:
        kind = partial(PromptScoring, top_logprobs=request.top_logprobs)
        return await self._in_one_pass(request, self._prompts.reading(request), kind)

    async def hidden_state(self, request: HiddenRequest) -> tuple[float, ...]:
        await self._read_images(request.images)
        return await self._in_one_pass(request, self._prompts.reading(request), Pooling)

    async def abort(self, request_id: str) -> None:
        for reading in [key for key, name in self._reading.items() if name == request_id]:
            del self._reading[reading]
        # Queued requests end at once, running sequences between two steps.
        if any(_belongs(answer, request_id) for answer in self._schedule.answers) and not self._closed:
            self._aborted.add(request_id)
            self._loop.wake()
        for work in self._admission.withdraw(lambda work: _belongs(work, request_id)):
            work.fail(_aborted(request_id))
            self._table.unuse(work.entry)

    async def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._schedule.answers),
            waiting=self._admission.waiting,
            known_z=self._table.known,
            resident_z=self._table.resident,
            table_rows=self._table.rows,
            generated_tokens=self._generated,
            peak_batch=self._peak_batch,
            peak_distinct_z=self._peak_z,
        )

    async def check_health(self) -> None:
        if self._closed:
            raise _closed()
        self._loop.check()

    async def close(self) -> None:
        self._closed = True
        await self._loop.stop()
        self._fail_all(_closed())
        # Wait for the step under way: the model may belong to a learner, too.
        await asyncio.to_thread(self._pool.shutdown)

    async def _read_images(self, images: Images) -> None:
        """Decode images in a thread, so that other requests go on; afterwards their numbers of tokens are known."""
        reader = self._prompts.reader
        if images and reader is not None:
            await asyncio.to_thread(lambda: [reader.tokens(image) for image in images])

    def _wake(self) -> None:
        if self._closed:
            raise _closed()
        self._loop.wake()

    async def _in_one_pass(
        self,
        request: ChoicesRequest | HiddenRequest | PromptRequest,
        tokens: Tokens,
        kind: Callable[[Prompt, ZEntry], SinglePass[T]],
    ) -> T:
        """Queue work of a single pass, and wait for its result."""
        self._wake()
        work = kind(self._prompt(request, tokens), self._table.use(request.z_digest))
        self._admission.queue([work])
        return await work.result

    def _prompt(
        self, request: GenerationRequest | ChoicesRequest | HiddenRequest | PromptRequest, tokens: Tokens
    ) -> Prompt:
        reader = self._prompts.reader
        return Prompt(tokens, request.z_digest, request.images, None if reader is None else reader.token)

    def _begin(self, request: GenerationRequest, sink: Sink) -> list[SequenceState]:
        prompt, count = self._prompt(request, self._prompts.generation(request)), request.sampling.n
        entry = self._table.use(request.z_digest, count)
        tokenizer = self.model.base.tokenizer
        try:
            return [
                SequenceState.begin(request, index, prompt, entry, sink, tokenizer, self._eos) for index in range(count)
            ]
        except BaseException:
            self._table.unuse(entry, count)
            raise

    async def _turn(self) -> bool:
        """Run one step. Returns False if nothing can run.

        A reader gets its answer or error before its slot and row are freed: if freeing raises, nobody waits.
        """
        self._end_aborted()
        step = self._schedule.plan()
        run = asyncio.get_running_loop().run_in_executor
        if not step:
            await run(self._pool, self._batch.rest)
            return False
        # Copying z-vectors gave this thread helpers.
        end_helpers()
        try:
            with self._loop.busy():
                computed = await run(self._pool, self._batch.run, step)
        except Exception as error:  # ends the requests of this step; the engine and later requests go on
            self._fail_step(error)
        else:
            self._schedule.finish(step)
            self._deliver(*computed)
        return True

    def _deliver(self, chunks: Sampled, results: Results) -> None:
        running = self._schedule.running
        batch = len(running)
        self._generated += batch
        self._peak_batch = max(self._peak_batch, batch)
        self._peak_z = max(self._peak_z, len({sequence.entry.digest for sequence in running}))
        for sequence, chunk in chunks:
            sequence.sink.put_nowait(chunk)
        for work, result in results.items():
            work.finish(result)
        self._free_finished()
        self._schedule.single = []
        for work in results:
            self._free(work)
        if results or len(self._schedule.running) < batch:
            self._loop.count_success()

    def _end_aborted(self) -> None:
        aborted, self._aborted = self._aborted, set()
        if not aborted:
            return
        for answer in self._schedule.answers:
            if answer.request.request_id in aborted:
                answer.finished = "stop"
                answer.fail(_aborted(answer.request.request_id))
        self._free_finished()

    def _free_finished(self) -> None:
        finished = [answer for answer in self._schedule.answers if answer.finished]
        if not finished:
            return
        self._schedule.running = self._batch.compact(self._schedule.running)
        self._schedule.drop_finished_prompts()
        for answer in finished:
            self._free(answer)

    def _free(self, work: Work) -> None:
        self._admission.leave(work.entry, work.slots)
        self._table.unuse(work.entry)

    def _fail_step(self, error: Exception) -> None:
        """End the requests of a step. Waiting requests run in the next step."""
        if not isinstance(error, ZfleetError):
            self._loop.count_failure(error)
            reason = f"a step failed: {type(error).__name__}: {error}"
            error = EngineError(reason, "lower engine.slots if memory ran out")
        ended = self._schedule.work
        for work in ended:
            work.fail(error)
        self._schedule.clear()
        for work in ended:
            self._free(work)

    def _fail_all(self, error: Exception) -> None:
        """End all requests and free all slots and rows: after an error between steps, the counts may be wrong."""
        ended = [*self._schedule.work, *self._admission.withdraw(lambda _: True)]
        self._schedule.clear()
        for work in ended:
            with guarded(_NAME):
                work.fail(error)
        self._admission.reset()


def _belongs(work: Work, request_id: str) -> bool:
    return isinstance(work, SequenceState) and work.request.request_id == request_id


def _aborted(request_id: str) -> RequestAborted:
    return RequestAborted(f"request {request_id} was aborted", "send it again")


def _closed() -> EngineError:
    return EngineError("the engine is closed", "start an engine and send the request again")
