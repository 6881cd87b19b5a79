"""The embedded engine: continuous batching in plain PyTorch, every row of the batch under its own z.

The event loop owns the queues; forward passes run in one worker thread, so that a server stays
responsive. One step admits waiting answers, runs their prompts, then adds a token to all that run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from zfleet.config.specs import EngineSpec
from zfleet.engine.contract import Chunk, Engine, EngineStats, GenerationRequest, ScoreRequest
from zfleet.engine.prompts import Prompts, Tokens
from zfleet.engine.torch_engine.answer import Answer, Sink
from zfleet.engine.torch_engine.batch import TorchBatch, check_length, check_whole
from zfleet.engine.z_table import TensorZTable, ZEntry
from zfleet.errors import EngineError, RequestAborted, ZfleetError
from zfleet.models.images import Images
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector

_PREFILL_TOKENS = 8192


@dataclass(eq=False)
class _Score:
    """One completion to score."""

    prompt: Tokens
    completion: Tokens
    images: Images
    entry: ZEntry
    result: asyncio.Future[tuple[float, ...]]


class TorchEngine(Engine):
    """Generates on the model it is given, which it may share with a learner."""

    def __init__(self, model: SvfModel, spec: EngineSpec | None = None) -> None:
        """Hold a model.

        Args:
            model: The base in SVF form.
            spec: Slots, longest sequence and table rows.

        Raises:
            BaseModelError: The base uses an attention this engine does not have.
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
        self._slots = spec.slots
        self._table = TensorZTable(model.layout.size, spec.z_rows, model.device)
        self._batch = TorchBatch(model, self._table)
        self._eos = _eos_tokens(model)
        self._waiting: deque[Answer] = deque()
        self._scores: deque[_Score] = deque()
        self._running: list[Answer] = []
        self._aborted: set[str] = set()
        self._reading: dict[object, str] = {}
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(1, "zfleet-torch-engine")
        self._closed = False
        self._score_waits = False
        self._generated = self._peak_batch = self._peak_z = 0

    async def put_z(self, z: ZVector) -> str:
        self.model.check(z)
        self._table.put(z.digest, z.flat(self.model.layout))
        return z.digest

    async def drop_z(self, digest: str) -> None:
        self._table.drop(digest)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        ticket = object()
        self._reading[ticket] = request.request_id
        try:
            await self._read_images(request.images)
        finally:
            wanted = self._reading.pop(ticket, None)
        if wanted is None:
            raise _aborted(request.request_id)
        prompt = self._prompts.generation(request)
        count = request.sampling.n
        entries = [self._table.use(request.z) for _ in range(count)]
        sink: Sink = asyncio.Queue()
        tokenizer = self.model.base.tokenizer
        self._waiting.extend(
            Answer.begin(request, index, prompt, entry, sink, tokenizer, self._eos)
            for index, entry in enumerate(entries)
        )
        self._start()
        left = count
        try:
            while left:
                item = await sink.get()
                if isinstance(item, Exception):
                    raise item
                left -= item.finish_reason is not None
                yield item
        finally:
            if left:
                await self.abort(request.request_id)

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        await self._read_images(request.images)
        prompt, completion = self._prompts.score(request)
        if not completion:
            return ()
        entry = self._table.use(request.z)
        result: asyncio.Future[tuple[float, ...]] = asyncio.get_running_loop().create_future()
        self._scores.append(_Score(prompt, completion, request.images, entry, result))
        self._start()
        return await result

    async def abort(self, request_id: str) -> None:
        for ticket in [ticket for ticket, reading in self._reading.items() if reading == request_id]:
            del self._reading[ticket]
        # Rows of a batch under way are taken out between steps; queued ones go at once.
        if any(answer.request.request_id == request_id for answer in self._running):
            self._aborted.add(request_id)
            self._start()
        for answer in [a for a in self._waiting if a.request.request_id == request_id]:
            self._waiting.remove(answer)
            self._end(answer, _aborted(request_id))

    async def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting) + len(self._scores),
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
        if self._loop is not None and self._loop.done():
            raise EngineError("the loop of TorchEngine died", "start an engine and send the request again")

    async def close(self) -> None:
        self._closed = True
        if self._loop is not None:
            self._wake_up()
            await self._loop
        self._fail_all(_closed())
        self._pool.shutdown()

    async def _read_images(self, images: Images) -> None:
        """In a thread, for which others need not wait; how many tokens each takes is known from then on."""
        reader = self._prompts.reader
        if images and reader is not None:
            await asyncio.to_thread(lambda: [reader.tokens(image) for image in images])

    def _start(self) -> None:
        if self._closed:
            self._fail_all(_closed())
        elif self._loop is None:
            self._wake = asyncio.Event()
            self._wake.set()
            self._loop = asyncio.create_task(self._run())
        else:
            self._wake_up()

    def _wake_up(self) -> None:
        assert self._wake is not None
        self._wake.set()

    async def _run(self) -> None:
        assert self._wake is not None
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            while not self._closed and await self._advance():
                pass

    async def _advance(self) -> bool:
        """One step for all that can run; False when nothing can."""
        self._remove_aborted()
        admitted, scores = self._admit(), self._admit_scores()
        batch = [*self._running, *admitted]
        if not (batch or scores):
            return False
        step = partial(self._step, list(self._running), admitted, scores)
        # From here on they can be aborted as running ones, although their prompts are still to come.
        self._running = batch
        try:
            chunks, logprobs = await asyncio.get_running_loop().run_in_executor(self._pool, step)
        except Exception as error:  # the batch fails with its cause; the engine and later requests go on
            self._fail(batch, scores, error)
            return True
        self._deliver(batch, chunks)
        for score, values in zip(scores, logprobs, strict=True):
            self._end_score(score, values)
        return True

    def _step(
        self, running: list[Answer], admitted: list[Answer], scores: list[_Score]
    ) -> tuple[list[tuple[Answer, Chunk]], list[tuple[float, ...]]]:
        """In the worker thread: one token for every answer, and the scores."""
        chunks = self._batch.prefill(len(running), admitted) if admitted else []
        chunks += self._batch.decode(running) if running else []
        sequences = [(score.prompt, score.completion, score.images, score.entry) for score in scores]
        return chunks, self._batch.score(sequences) if sequences else []

    def _admit(self) -> list[Answer]:
        """Answers that find a slot and a row for their z, first come first.

        Past one that waits for a row only the base's go: any other would keep a row pinned that it waits for.
        """
        admitted: list[Answer] = []
        row_wanted = self._score_waits
        longest = 0
        for answer in list(self._waiting):
            longest = max(longest, len(answer.prompt))
            full = len(self._running) + len(admitted) >= self._slots
            if full or (admitted and longest * (len(admitted) + 1) > _PREFILL_TOKENS):
                break
            if row_wanted and answer.entry.row != 0:
                continue
            if self._table.pin(answer.entry) is None:
                row_wanted = True
                continue
            self._waiting.remove(answer)
            admitted.append(answer)
        return admitted

    def _admit_scores(self) -> list[_Score]:
        """Scores need their row for one step only, so that they never keep answers waiting."""
        admitted: list[_Score] = []
        longest = 0
        self._score_waits = False
        for score in list(self._scores):
            longest = max(longest, len(score.prompt) + len(score.completion))
            if admitted and longest * (len(admitted) + 1) > _PREFILL_TOKENS:
                break
            if self._table.pin(score.entry) is None:
                self._score_waits = True
                continue
            self._scores.remove(score)
            admitted.append(score)
        return admitted

    def _deliver(self, batch: list[Answer], chunks: list[tuple[Answer, Chunk]]) -> None:
        self._generated += len(batch)
        self._peak_batch = max(self._peak_batch, len(batch))
        self._peak_z = max(self._peak_z, len({answer.entry.digest for answer in batch}))
        for answer, chunk in chunks:
            answer.sink.put_nowait(chunk)
        self._running = self._batch.compact(batch)
        for answer in batch:
            if answer.finished:
                self._table.unpin(answer.entry)
                self._table.unuse(answer.entry)

    def _remove_aborted(self) -> None:
        aborted, self._aborted = self._aborted, set()
        batch = list(self._running)
        for answer in batch:
            if answer.request.request_id in aborted:
                answer.finished = "stop"
                self._table.unpin(answer.entry)
                self._end(answer, _aborted(answer.request.request_id))
        self._running = self._batch.compact(batch)

    def _end(self, answer: Answer, error: Exception) -> None:
        self._table.unuse(answer.entry)
        answer.sink.put_nowait(error)

    def _end_score(self, score: _Score, outcome: tuple[float, ...] | Exception) -> None:
        self._table.unpin(score.entry)
        self._table.unuse(score.entry)
        if score.result.done():
            return
        if isinstance(outcome, Exception):
            score.result.set_exception(outcome)
        else:
            score.result.set_result(outcome)

    def _fail(self, answers: list[Answer], scores: list[_Score], error: Exception) -> None:
        if not isinstance(error, ZfleetError):
            error = EngineError(
                f"a step failed: {type(error).__name__}: {error}", "lower engine.slots if memory ran out"
            )
        for answer in answers:
            self._table.unpin(answer.entry)
            self._end(answer, error)
        for score in scores:
            self._end_score(score, error)
        self._running = []

    def _fail_all(self, error: Exception) -> None:
        self._fail(self._running, [], error)
        while self._waiting:
            self._end(self._waiting.popleft(), error)
        while self._scores:
            score = self._scores.popleft()
            self._table.unuse(score.entry)
            if not score.result.done():
                score.result.set_exception(error)


def _eos_tokens(model: SvfModel) -> frozenset[int]:
    configured = getattr(model.base.model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*listed, model.base.tokenizer.eos_token_id) if token is not None)


def _aborted(request_id: str) -> RequestAborted:
    return RequestAborted(f"request {request_id} was aborted", "send it again")


def _closed() -> EngineError:
    return EngineError("the engine is closed", "start an engine and send the request again")
