"""An engine without a model, for tests of everything above engines.

Its answers depend on the z in the answer's table row, the prompt and the tokens so far (``FakeModel``), so that a
mixed-up row, prompt or position shows in the answer. A script can replace them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

import torch

from zfleet.engine.contract import (
    BASE_Z,
    ChoicesRequest,
    Chunk,
    Engine,
    EngineStats,
    GenerationRequest,
    HiddenRequest,
    PromptRequest,
    PromptScores,
    refuse_images,
)
from zfleet.errors import EngineError, InvalidRequest, InvalidZ, RequestAborted, RequestTooLong, UnknownZ, ZfleetError
from zfleet.supervise import WorkLoop
from zfleet.svf.layout import ZLayout
from zfleet.svf.zvector import ZVector
from zfleet.testing.fake_answer import FakeAnswer
from zfleet.testing.fake_model import EOS, IDS, PLACES, FakeModel, Script, fake_text, fake_tokens, likeliest
from zfleet.testing.fake_table import FakeTable

__all__ = ["FAKE_LAYOUT", "FakeEngine", "fake_text", "fake_tokens", "fake_z"]

FAKE_LAYOUT = ZLayout(("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"), (4, 4))


def fake_z(seed: int, *, base: str = "fake-base", factors: str = "fake-factors") -> ZVector:
    """Make a z that a ``FakeEngine`` of the same base and factors accepts."""
    generator = torch.Generator().manual_seed(seed)
    sizes = zip(FAKE_LAYOUT.names, FAKE_LAYOUT.ranks, strict=True)
    values = {name: 1 + 0.1 * torch.randn(rank, generator=generator) for name, rank in sizes}
    return ZVector(values, base, factors, "mlp")


class FakeEngine(Engine):
    """Answers from a script or a hash, with slots, a table of z rows, pins and LRU as real engines have.

    Args:
        script: The answers; see ``Script``.
        slots: Answers generated at once.
        z_rows: Rows of the z table, the base's included.
        max_length: The longest prompt and answer together, in tokens.
        base: The fingerprint that it accepts.
        factors: The digest of factors that it accepts.
        step_seconds: Duration of one step.

    Attributes:
        health_error: Raised by ``check_health``, for tests; None leaves the engine healthy.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        slots: int = 16,
        z_rows: int = 8,
        max_length: int = 512,
        base: str = "fake-base",
        factors: str = "fake-factors",
        step_seconds: float = 0.0,
    ) -> None:
        self._model = FakeModel(script)
        self._slots = slots
        self.max_length = max_length
        self.health_error: EngineError | None = None
        self._base = base
        self._factors = factors
        self._step_seconds = step_seconds
        self._known: set[str] = set()
        self._table = FakeTable(z_rows)
        self._waiting: deque[FakeAnswer] = deque()
        self._running: list[FakeAnswer] = []
        self._loop = WorkLoop("the loop of FakeEngine", self._turn, self._fail_all)
        self._closed = False
        self._generated = 0
        self._peak_batch = 0
        self._peak_distinct = 0

    async def put_z(self, z: ZVector) -> str:
        """As ``Engine.put_z``."""
        self._check_open()
        z.check_fits(base=self._base, factors=self._factors, layout=FAKE_LAYOUT)
        if not all(bool(torch.isfinite(value).all()) for value in z.values.values()):
            raise InvalidZ(f"z {z.digest[:12]} holds NaN or infinite values", "use an earlier checkpoint")
        self._known.add(z.digest)
        return z.digest

    async def drop_z(self, digest: str) -> None:
        """As ``Engine.drop_z``."""
        self._check_known(digest)
        if digest == BASE_Z:
            raise UnknownZ("the base's own z cannot be dropped", "drop only what was put")
        self._known.remove(digest)
        self._table.forget(digest)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """As ``Engine.generate``."""
        self._check_open()
        refuse_images(request.images)
        prompt = _as_tokens(request.prompt)
        self._check_fits(request.z_digest, len(prompt), request.sampling.max_tokens)
        _check_vocabulary([token for token, _ in request.sampling.logit_bias], "logit_bias")
        pieces: asyncio.Queue[Chunk | ZfleetError] = asyncio.Queue()
        answers = [FakeAnswer(request, prompt, index, pieces) for index in range(request.sampling.n)]
        self._loop.wake()
        self._waiting.extend(answers)
        unfinished = len(answers)
        try:
            while unfinished:
                piece = await pieces.get()
                if isinstance(piece, ZfleetError):
                    raise piece
                unfinished -= piece.finish_reason is not None
                yield piece
        finally:
            self._remove(answers)

    async def score_choices(self, request: ChoicesRequest) -> tuple[tuple[float, ...], ...]:
        """As ``Engine.score_choices``."""
        self._check_open()
        refuse_images(request.images)
        prompt = _as_tokens(request.prompt)
        completions = [_as_tokens(completion) for completion in request.completions]
        for place, completion in enumerate(completions):
            if not completion:
                raise InvalidRequest(f"{request.name(place)} has no tokens", "give at least one token")
            _check_vocabulary(completion, request.name(place))
            self._check_fits(request.z_digest, len(prompt), len(completion))
        return tuple(self._score(request.z_digest, prompt, completion) for completion in completions)

    async def score_prompt(self, request: PromptRequest) -> PromptScores:
        """As ``Engine.score_prompt``."""
        self._check_open()
        prompt = _as_tokens(request.prompt)
        self._check_fits(request.z_digest, len(prompt), 1)
        _check_vocabulary(prompt[1:], "the prompt")
        rows = [self._model.log_probs(request.z_digest, prompt[:1], prompt[1:end]) for end in range(1, len(prompt))]
        logprobs = [float(row[PLACES[token]]) for row, token in zip(rows, prompt[1:], strict=True)]
        others = [likeliest(row, request.top_logprobs) for row in rows] if request.top_logprobs else []
        return PromptScores(tuple(logprobs), tuple(others))

    async def hidden_state(self, request: HiddenRequest) -> tuple[float, ...]:
        """As ``Engine.hidden_state``."""
        self._check_open()
        refuse_images(request.images)
        prompt = _as_tokens(request.prompt)
        self._check_fits(request.z_digest, len(prompt), 1)
        return self._model.hidden_state(request.z_digest, prompt)

    async def abort(self, request_id: str) -> None:
        """As ``Engine.abort``."""
        self._fail(
            [answer for answer in [*self._waiting, *self._running] if answer.request.request_id == request_id],
            RequestAborted(f"request {request_id} was aborted", "send it again"),
        )

    async def stats(self) -> EngineStats:
        """As ``Engine.stats``."""
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            known_z=len(self._known),
            resident_z=self._table.resident,
            table_rows=self._table.size,
            generated_tokens=self._generated,
            peak_batch=self._peak_batch,
            peak_distinct_z=self._peak_distinct,
        )

    async def check_health(self) -> None:
        """As ``Engine.check_health``."""
        self._check_open()
        if self.health_error is not None:
            raise self.health_error
        self._loop.check()

    async def close(self) -> None:
        """As ``Engine.close``."""
        self._closed = True
        await self._loop.stop()
        self._fail_all(RequestAborted("the engine was closed", "start another engine"))

    async def _turn(self) -> bool:
        """Add one token to every running answer. Returns False if nothing can run."""
        self._admit()
        if not self._running:
            return False
        self._peak_batch = max(self._peak_batch, len(self._running))
        self._peak_distinct = max(self._peak_distinct, len({answer.row for answer in self._running}))
        for answer in list(self._running):
            # The z of the table's row, not of the request, so that a mix-up shows.
            z_digest = self._table.content(answer.row)
            try:
                log_probs = self._model.log_probs(z_digest, answer.prompt, tuple(answer.tokens))
            except ZfleetError as error:
                self._fail([answer], error)
                continue
            answer.take(IDS, log_probs, EOS, z_digest)
            self._generated += 1
            if answer.finished:
                self._remove([answer])
                self._loop.count_success()
        await asyncio.sleep(self._step_seconds)
        return True

    def _admit(self) -> None:
        """Admit first come, first served: an answer without a free row holds up those behind it."""
        while self._waiting and len(self._running) < self._slots:
            row = self._table.pin(self._waiting[0].request.z_digest)
            if row is None:
                return
            answer = self._waiting.popleft()
            answer.row = row
            self._running.append(answer)

    def _remove(self, answers: list[FakeAnswer]) -> None:
        for answer in answers:
            if answer in self._running:
                self._running.remove(answer)
                self._table.unpin(answer.row, keep=answer.request.z_digest in self._known)
            elif answer in self._waiting:
                self._waiting.remove(answer)

    def _fail(self, answers: list[FakeAnswer], error: ZfleetError) -> None:
        for answer in answers:
            answer.pieces.put_nowait(error)
        self._remove(answers)

    def _fail_all(self, error: ZfleetError) -> None:
        for answer in [*self._waiting, *self._running]:
            answer.pieces.put_nowait(error)
        self._waiting.clear()
        self._running.clear()
        self._table.unpin_all(self._known)

    def _score(self, z_digest: str, prompt: tuple[int, ...], completion: tuple[int, ...]) -> tuple[float, ...]:
        rows = (self._model.log_probs(z_digest, prompt, completion[:end]) for end in range(len(completion)))
        return tuple(float(row[PLACES[token]]) for row, token in zip(rows, completion, strict=True))

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed", "start another engine")

    def _check_known(self, z_digest: str) -> None:
        if z_digest != BASE_Z and z_digest not in self._known:
            raise UnknownZ(f"z {z_digest[:12]} is not known to this engine", "give it with put_z first")

    def _check_fits(self, z_digest: str, prompt: int, more: int) -> None:
        self._check_known(z_digest)
        if not prompt:
            raise InvalidRequest("the prompt is empty", "give at least one token")
        if prompt + more > self.max_length:
            raise RequestTooLong(
                f"{prompt} prompt tokens and {more} more exceed max_length {self.max_length}",
                "shorten the prompt, or ask for fewer tokens",
            )


def _check_vocabulary(tokens: Sequence[int], name: str) -> None:
    unknown = next((token for token in tokens if token not in PLACES), None)
    if unknown is not None:
        raise InvalidRequest(f"{name} has token {unknown}", "give tokens of printable ASCII")


def _as_tokens(prompt: str | tuple[int, ...]) -> tuple[int, ...]:
    return fake_tokens(prompt) if isinstance(prompt, str) else prompt
