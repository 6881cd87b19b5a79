"""The engine contract: everything that generates goes through it.

Rollouts, search, evaluation, dispatch and serving all use one async interface. A request names its z by digest. An
engine holds the base once and a table of z rows, and every row of a batch may use another z.
``zfleet.testing.engine_conformance`` is the contract as tests; every engine passes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

from zfleet.engine.answers import Alternatives, Chunk, Completion, EngineStats, FinishReason, PromptScores
from zfleet.engine.requests import (
    BASE_Z,
    ChoicesRequest,
    GenerationRequest,
    HiddenRequest,
    PromptRequest,
    ScoreRequest,
    refuse_images,
)
from zfleet.engine.sampling_params import MAX_N, MAX_TOP_LOGPROBS, SamplingParams
from zfleet.errors import WrongZ
from zfleet.svf.zvector import ZVector

__all__ = [
    "BASE_Z",
    "MAX_N",
    "MAX_TOP_LOGPROBS",
    "Alternatives",
    "ChoicesRequest",
    "Chunk",
    "Completion",
    "Engine",
    "EngineStats",
    "FinishReason",
    "GenerationRequest",
    "HiddenRequest",
    "PromptRequest",
    "PromptScores",
    "SamplingParams",
    "ScoreRequest",
    "check_z",
    "collect",
    "refuse_images",
]


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

    async def score(self, request: ScoreRequest) -> tuple[float, ...]:
        """As ``score_choices``, for one completion."""
        choices = ChoicesRequest(request.prompt, (request.completion,), request.z_digest, request.images)
        (logprobs,) = await self.score_choices(choices)
        return logprobs

    @abstractmethod
    async def score_choices(self, request: ChoicesRequest) -> tuple[tuple[float, ...], ...]:
        """Compute the teacher-forced log-probability of each token of each completion, under the request's z.

        The prompt is computed once for all completions, and each of them sees the prompt and itself alone.

        Raises:
            InvalidRequest: A completion has no tokens, or one that the base does not know.
            UnknownZ: As in ``generate``.
            RequestTooLong: The prompt and a completion do not fit.
        """

    @abstractmethod
    async def score_prompt(self, request: PromptRequest) -> PromptScores:
        """Compute the log-probability of each token of a prompt but the first, under the request's z.

        Raises:
            UnknownZ: As in ``generate``.
            RequestTooLong: The prompt leaves no room for an answer of one token.
        """

    @abstractmethod
    async def hidden_state(self, request: HiddenRequest) -> tuple[float, ...]:
        """Average the hidden states of the prompt's tokens, after the base's final norm and under the request's z.

        Requests that run at the same time share batches, as answers do.

        Returns:
            [hidden], in the width of the base.

        Raises:
            UnknownZ: As in ``generate``.
            RequestTooLong: The prompt leaves no room for an answer of one token.
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
    """Run one request to its end and return its ``n`` completions, in order.

    Raises:
        WrongZ: An answer was computed under another z than the request names.
    """
    texts: list[list[str]] = [[] for _ in range(request.sampling.n)]
    tokens: list[list[int]] = [[] for _ in texts]
    logprobs: list[list[float]] = [[] for _ in texts]
    alternatives: list[list[Alternatives]] = [[] for _ in texts]
    reasons: list[FinishReason] = ["length"] * len(texts)
    async for chunk in engine.generate(request):
        check_z(request, chunk)
        texts[chunk.index].append(chunk.text)
        tokens[chunk.index].extend(chunk.token_ids)
        logprobs[chunk.index].extend(chunk.logprobs)
        alternatives[chunk.index].extend(chunk.top_logprobs)
        if chunk.finish_reason is not None:
            reasons[chunk.index] = chunk.finish_reason
    return [
        Completion("".join(text), tuple(ids), tuple(values), reason, request.z_digest, tuple(others))
        for text, ids, values, others, reason in zip(texts, tokens, logprobs, alternatives, reasons, strict=True)
    ]


def check_z(request: GenerationRequest, chunk: Chunk) -> None:
    """Refuse an answer under another z than the request names.

    Raises:
        WrongZ: It is one.
    """
    if chunk.z_digest != request.z_digest:
        raise WrongZ(
            f"request {request.request_id} asked for z {request.z_digest[:12]}, the engine answered under "
            f"{chunk.z_digest[:12]}",
            "nothing was learned or sent from it; start the engine again, and report the fault",
        )
