"""The engine contract: everything that generates goes through it.

Rollouts, search, evaluation, dispatch and serving all use one async interface. A request names its z by digest. An
engine holds the base once and a table of z rows, and every row of a batch may use another z.
``zfleet.testing.engine_conformance`` is the contract as tests; every engine passes it.
"""

from __future__ import annotations

import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from zfleet.errors import InvalidRequest
from zfleet.svf.zvector import ZVector

BASE_Z = "base"
"""The digest that names the identity, z = 1: the base itself. It is always known and never evicted."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParams:
    """How to sample one answer.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus mass in (0, 1].
        max_tokens: The longest answer, in tokens.
        stop: Strings that end the answer; they are not part of its text.
        seed: The same request with the same seed gets the same answer, whatever else runs in the batch. None is random.
        logprobs: Report the log-probability of each sampled token under the unmodified distribution (temperature 1, no
            top_p).
        n: How many answers to sample.
        ignore_eos: Continue after the end-of-sequence token (for benchmarks).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 16
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    n: int = 1
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require(
            math.isfinite(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "0 or more"
        )
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more")
        _require(1 <= self.n <= MAX_N, "n", self.n, f"from 1 to {MAX_N}")
        _require(all(self.stop), "stop", self.stop, "strings that are not empty")


MAX_N = 128
"""The most answers one request may ask for."""


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise InvalidRequest(f"{name} is {value!r}", f"{name} must be {allowed}")


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt to answer under one z.

    Attributes:
        prompt: Text, or token ids that are used as they are.
        sampling: How to sample.
        z_digest: The digest of a z given to ``put_z``, or ``BASE_Z``.
        images: PNG, JPEG or WebP files, for a base that takes images. The prompt has one image token for each.
        stream: Yield a chunk per token; otherwise one chunk per answer, when it is complete.
        request_id: Names the request for ``abort``.
    """

    prompt: str | tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    z_digest: str = BASE_Z
    images: tuple[bytes, ...] = ()
    stream: bool = False
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        _check_images(self.images)


@dataclass(frozen=True)
class Chunk:
    """A piece of answer number ``index``.

    Attributes:
        index: Which of the ``n`` answers.
        text: New text since the last chunk of this answer.
        token_ids: New tokens, the end-of-sequence token included if it was sampled.
        logprobs: One for each new token if the request asks for them, otherwise empty.
        finish_reason: Set on the answer's last chunk.
        prompt_tokens: Length of the prompt, in tokens.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason | None
    prompt_tokens: int


@dataclass(frozen=True)
class Completion:
    """One complete answer.

    Attributes:
        text: The text without stop strings and special tokens.
        token_ids: The sampled tokens, the end-of-sequence token included.
        logprobs: One for each token if the request asks for them, otherwise empty.
        finish_reason: Why it ended.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class ScoreRequest:
    """A prompt and a completion to score under one z.

    Attributes:
        prompt: Text, or token ids.
        completion: Text, or token ids, whose log-probabilities the engine computes.
        z_digest: As in ``GenerationRequest``.
        images: As in ``GenerationRequest``.
    """

    prompt: str | tuple[int, ...]
    completion: str | tuple[int, ...]
    z_digest: str = BASE_Z
    images: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _check_images(self.images)


def _check_images(images: object) -> None:
    encoded = isinstance(images, tuple) and all(isinstance(image, bytes) for image in images)
    _require(encoded, "images", type(images).__name__, "a tuple of the bytes of image files")


def refuse_images(images: Sequence[bytes]) -> None:
    """Refuse images, for engines and bases that read text only.

    Raises:
        InvalidRequest: There are images.
    """
    if images:
        raise InvalidRequest(
            f"the request has {len(images)} images, this base takes none here",
            "leave them out, or run a vision-language base on TorchEngine",
        )


@dataclass(frozen=True)
class EngineStats:
    """Counters of an engine.

    Attributes:
        running: Answers being generated now.
        waiting: Answers and scores that are queued.
        known_z: z-vectors that were put and not dropped.
        resident_z: z-vectors in the table, without the identity in row 0.
        table_rows: Rows of the table, row 0 included.
        generated_tokens: Tokens generated since the start.
        peak_batch: The most rows that ran in one step.
        peak_distinct_z: The most different z in one step.
    """

    running: int
    waiting: int
    known_z: int
    resident_z: int
    table_rows: int
    generated_tokens: int
    peak_batch: int
    peak_distinct_z: int


class Engine(ABC):
    """What generates tokens.

    Attributes:
        max_length: The longest prompt and answer together, in tokens.
    """

    max_length: int

    @abstractmethod
    async def put_z(self, z: ZVector) -> str:
        """Make a z known and return its digest. Idempotent.

        Raises:
            WrongBase: The z belongs to another base or to other factors.
            InvalidZ: Wrong shapes, or values that are not finite.
        """

    @abstractmethod
    async def drop_z(self, digest: str) -> None:
        """Forget a z. Requests under way finish on it; later requests raise ``UnknownZ``.

        Raises:
            UnknownZ: The digest is not known.
        """

    async def choose_directions(self, digests: Sequence[str], again: bool = False) -> None:  # noqa: B027
        """Choose the singular directions with which an approximate form of the linears computes these z.

        Directions that were chosen before stay, unless ``again``. They change between answers, never within one: those
        under way end first, and new ones wait. Engines that compute every z exactly do nothing.

        Args:
            digests: Given to ``put_z`` before; one or more.
            again: Choose again.

        Raises:
            UnknownZ: A digest is not known.
        """

    async def truncation_errors(self) -> dict[str, float]:
        """Say how much an approximate form of the linears leaves out of each known z.

        Returns:
            {digest: the largest ||W'' - W'|| / ||W|| of any matrix, Frobenius}, where W'' is what the engine computes
            with; 0 for a z that is computed exactly. Empty if every z is.
        """
        return {}

    @abstractmethod
    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Answer one request. Chunks of different answers may interleave.

        A request whose z finds no free row in the table waits; it never runs under another z.

        Raises:
            UnknownZ: The z was never put, or was dropped.
            RequestTooLong: Prompt and max_tokens do not fit. Only this request fails.
            RequestAborted: ``abort`` was called.
        """

    @abstractmethod
    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """Compute the teacher-forced log-probability of each completion token under the request's z.

        Raises:
            UnknownZ, RequestTooLong: As in ``generate``.
        """

    @abstractmethod
    async def abort(self, request_id: str) -> None:
        """Stop a request; its ``generate`` raises ``RequestAborted``. Unknown ids are ignored."""

    @abstractmethod
    async def stats(self) -> EngineStats:
        """Return a consistent snapshot of the counters."""

    @abstractmethod
    async def check_health(self) -> None:
        """Return if the engine can answer requests, or is restarting its processes in order to.

        The check itself ends within ``zfleet.supervise.HANG_SECONDS``. An engine that finds its processes dead restarts
        them; the next check tells how that went.

        Raises:
            EngineError: The engine cannot answer any more. The message says why: it is closed, its loop died or keeps
                failing, a step or its processes have not answered for ``HANG_SECONDS``, or its last restart failed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Abort all requests and free the engine. Idempotent."""


async def collect(engine: Engine, request: GenerationRequest) -> list[Completion]:
    """Run one request to its end and return its ``n`` completions, in order."""
    texts: list[list[str]] = [[] for _ in range(request.sampling.n)]
    tokens: list[list[int]] = [[] for _ in texts]
    logprobs: list[list[float]] = [[] for _ in texts]
    reasons: list[FinishReason] = ["length"] * len(texts)
    async for chunk in engine.generate(request):
        texts[chunk.index].append(chunk.text)
        tokens[chunk.index].extend(chunk.token_ids)
        logprobs[chunk.index].extend(chunk.logprobs)
        if chunk.finish_reason is not None:
            reasons[chunk.index] = chunk.finish_reason
    return [
        Completion("".join(text), tuple(ids), tuple(values), reason)
        for text, ids, values, reason in zip(texts, tokens, logprobs, reasons, strict=True)
    ]
