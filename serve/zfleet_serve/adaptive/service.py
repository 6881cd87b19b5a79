"""Serving without HTTP: from a model's name to an answer, and to the experts that gave it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from zfleet.config.names import Alpha
from zfleet.engine.contract import BASE_Z, Chunk, Engine, GenerationRequest, PromptRequest, PromptScores, check_z
from zfleet.engine.streams import closing, merged
from zfleet.errors import EngineError, InvalidRequest
from zfleet_serve.access.context import current
from zfleet_serve.adaptive.experts import Experts, parts_of
from zfleet_serve.adaptive.first_pass import FirstPass, Route, milliseconds_since
from zfleet_serve.adaptive.mixing import route_of_mixture
from zfleet_serve.adaptive.models import Models, named_model
from zfleet_serve.adaptive.names import ModelNotFound, PartNotFound, shown
from zfleet_serve.adaptive.settings import Served
from zfleet_serve.adaptive.shadow import Shadows

T = TypeVar("T")
Tokens = tuple[int, ...]

_ERRORS_SECONDS = 1.0
"""How long a list of models waits for the engine's errors."""


class TokenPieces(Protocol):
    """The bytes of an answer's tokens."""

    def __call__(self, token: int) -> bytes:
        """Return the bytes of the next token. Call it with each of them in order."""

    def of_other(self, token: int) -> bytes:
        """Return the bytes that a token would have in the place of the next one."""


class Text(Protocol):
    """The tokenizer of the base, as serving uses it."""

    def chat(self, turns: list[dict[str, str]]) -> Tokens:
        """Return the token ids of a conversation, ready for the next turn.

        Raises:
            TaskError: There is no chat template, or it refuses the conversation.
            RequestTooLong: The text is so long that it cannot fit, whatever its tokens are.
        """

    def tokens(self, text: str, special: bool = True) -> Tokens:
        """Return the token ids of a text.

        Args:
            text: The text.
            special: Whether the tokenizer adds its special tokens.

        Raises:
            RequestTooLong: As ``chat``.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included.

        Raises:
            InvalidRequest: An id is none of the tokenizer's.
        """

    def names(self, tokens: Sequence[int]) -> list[str]:
        """Return the entries of the vocabulary that token ids name."""

    def info(self) -> dict[str, Any]:
        """Return the tokenizer's configuration: its class, special tokens and chat template."""

    def bytes_after(self, prompt: Tokens) -> TokenPieces:
        """Return the bytes of tokens that follow a prompt; it may be empty."""


@dataclass
class Answer:
    """An answer whose first chunk has arrived: errors before that still get an HTTP status of their own.

    Attributes:
        route: The experts that answer.
        chunks: All chunks, the first one included.
        start: When the second pass began (``time.perf_counter``).
        prompts: Scores of the prompts' own tokens, if the request asks for them.
    """

    route: Route
    chunks: AsyncIterator[Chunk]
    start: float
    prompts: Sequence[PromptScores] = ()

    @property
    def second_pass_ms(self) -> float:
        """Return how long the second pass has taken so far."""
        return milliseconds_since(self.start)


class Service:
    """Answers requests.

    Args:
        engine: Generates.
        experts: Finds experts and gives them to the same engine.
        text: The base's tokenizer.
        served: The settings.
    """

    def __init__(self, engine: Engine, experts: Experts, text: Text, served: Served) -> None:
        self.engine = engine
        self.experts = experts
        self.text = text
        self.served = served
        self.models = Models(experts, served)
        self.first_pass = FirstPass(engine, experts, self._render, served)
        self.shadows = Shadows(engine, experts, served.base)

    async def errors(self) -> dict[str, float]:
        """Return what the engine leaves out of each z: as ``Engine.truncation_errors``, or nothing if it is away."""
        if self.served.approximate:
            with suppress(EngineError, TimeoutError):
                async with asyncio.timeout(_ERRORS_SECONDS):
                    return await self.engine.truncation_errors()
        return {}

    @asynccontextmanager
    async def answer(
        self,
        model: str,
        user_text: str | None,
        requests: Sequence[GenerationRequest],
        task: str | None = None,
        *,
        user: str | None = None,
        mixture: Mapping[str, Alpha] | None = None,
        prompts: Sequence[PromptRequest] = (),
        empty: bool = False,
    ) -> AsyncIterator[Answer]:
        """Answer one prompt or several inside the block; leaving it ends the answer, finished or not.

        Args:
            model: The request's ``model``.
            user_text: The text of the user, by which dispatchers choose; None if there is no such text.
            requests: One request of the second pass for each prompt; all get the same z, which is chosen here.
            task: The task that the request names, for dispatchers of kind ``few_shot``.
            user: Who asks, for experts whose traffic is shared; None: nobody in particular.
            mixture: {reference: alpha} of experts to mix, if ``model`` is the base.
            prompts: Prompts whose own tokens are scored before the first chunk, under the same z.
            empty: Generate nothing: each answer ends at once, by its length.

        Yields:
            The answer. Its chunks are numbered over all prompts: those of the second follow the ``n`` of the first.

        Raises:
            ModelNotFound: There is no such model; says which models there are.
            NotAllowed: The client's key is not for this model.
            ZfleetError: Any error of the registry and the engine before the first chunk.
        """
        route = await self.route(model, user_text, task, mixture, user)
        start = time.perf_counter()
        scores = await _all([self.engine.score_prompt(replace(prompt, z_digest=route.z)) for prompt in prompts])
        generate = _end_at_once if empty else self._generate
        answers = [generate(replace(request, z_digest=route.z), place) for place, request in enumerate(requests)]
        async with aclosing(answers[0] if len(answers) == 1 else merged(answers)) as chunks:
            first = await anext(chunks)
            yield Answer(route, _chain(first, chunks), start, scores)

    async def _generate(self, request: GenerationRequest, place: int) -> AsyncGenerator[Chunk, None]:
        before = place * request.sampling.n
        async with closing(self.engine.generate(request)) as chunks:
            async for chunk in chunks:
                check_z(request, chunk)
                yield replace(chunk, index=before + chunk.index)

    async def route(
        self,
        model: str,
        user_text: str | None,
        task: str | None = None,
        mixture: Mapping[str, Alpha] | None = None,
        user: str | None = None,
    ) -> Route:
        """Choose the experts that answer, and have the engine know their z. Nothing is generated.

        Args:
            model, user_text, task, mixture, user: As for ``answer``.

        Raises:
            ModelNotFound, NotAllowed, ZfleetError: As ``answer``.
        """
        route = await self._route(model, user_text, task, mixture, user)
        current.get().answered_by(tuple(part.expert for part in route.parts))
        return route

    async def _route(
        self, model: str, user_text: str | None, task: str | None, mixture: Mapping[str, Alpha] | None, user: str | None
    ) -> Route:
        try:
            name = named_model(model, self.served.base)
            if mixture is not None:
                if name.auto or name.expert is not None:
                    raise InvalidRequest(
                        f"model is {shown(model)}, and zfleet.mixture names its experts, too",
                        f"set model to {self.served.base!r}, or leave out the mixture",
                    )
                return await route_of_mixture(mixture, self.experts, self.served)
            if name.auto:
                return await self.first_pass.auto(user_text, task)
            if name.expert is None:
                return Route(self.served.base, (), None, BASE_Z, None)
            version = await self.experts.resolve(name.expert, user)
        except PartNotFound:
            raise
        except ModelNotFound as error:
            raise await self.models.unknown(model, error) from error
        if version.is_dispatcher:
            return await self.first_pass.by(version, user_text, task)
        z = await self.experts.ready(version)
        return Route(f"{self.served.base}:{version.reference}", parts_of(version), None, z, None)

    def _render(self, prompt: str) -> tuple[int, ...]:
        return self.text.chat([{"role": "user", "content": prompt}])


async def _end_at_once(request: GenerationRequest, place: int) -> AsyncGenerator[Chunk, None]:
    for index in range(request.sampling.n):
        yield Chunk(place * request.sampling.n + index, "", (), (), "length", len(request.prompt), request.z_digest)


async def _all(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Do work at the same time. The first error ends all of it."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _chain(first: Chunk, rest: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    yield first
    async for chunk in rest:
        yield chunk
