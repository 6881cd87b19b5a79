"""Serving without HTTP: from a model's name to an answer, and to the experts that gave it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from zfleet.config.names import AUTO, REFERENCE
from zfleet.engine.contract import BASE_Z, Chunk, Engine, GenerationRequest, check_z
from zfleet.engine.streams import closing, merged
from zfleet.errors import EngineError, RegistryError
from zfleet_serve.access.context import current
from zfleet_serve.adaptive.experts import Experts, parts_of
from zfleet_serve.adaptive.first_pass import FirstPass, Route, milliseconds_since
from zfleet_serve.adaptive.names import ModelName, ModelNotFound, parse_model, shown
from zfleet_serve.adaptive.settings import Served

Tokens = tuple[int, ...]

_ERRORS_SECONDS = 1.0
"""How long a list of models waits for the engine's errors."""


class Text(Protocol):
    """The tokenizer of the base, as serving uses it."""

    def chat(self, turns: list[dict[str, str]]) -> Tokens:
        """Return the token ids of a conversation, ready for the next turn.

        Raises:
            TaskError: There is no chat template, or it refuses the conversation.
            RequestTooLong: The text is so long that it cannot fit, whatever its tokens are.
        """

    def tokens(self, text: str) -> Tokens:
        """Return the token ids of a text.

        Raises:
            RequestTooLong: As ``chat``.
        """

    def bytes_after(self, prompt: Tokens) -> Callable[[int], bytes]:
        """Return a function that gives the bytes of an answer's tokens; call it with each token in order."""


@dataclass
class Answer:
    """An answer whose first chunk has arrived: errors before that still get an HTTP status of their own.

    Attributes:
        route: The experts that answer.
        chunks: All chunks, the first one included.
        start: When the second pass began (``time.perf_counter``).
    """

    route: Route
    chunks: AsyncIterator[Chunk]
    start: float

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
        self.first_pass = FirstPass(engine, experts, self._render, served)

    async def models(self) -> dict[str, str]:
        """Return every name that the client may give as ``model``, without versions and aliases, with its z.

        Returns:
            {name: z digest}; "" for ``auto`` and dispatchers, which have none of their own.
        """
        reached = await self.experts.reached()
        dispatchers = await self.experts.reached(dispatchers=True)
        named = {AUTO: ""} if self._chooser() in reached | dispatchers else {}
        named |= {name: version.z_digest for name, version in sorted((reached | dispatchers).items())}
        may_name = current.get().may_name
        return {self.served.base: BASE_Z} | {
            f"{self.served.base}:{name}": z for name, z in named.items() if may_name(name)
        }

    async def errors(self) -> dict[str, float]:
        """Return what the engine leaves out of each z: as ``Engine.truncation_errors``, or nothing if it is away."""
        if self.served.approximate:
            with suppress(EngineError, TimeoutError):
                async with asyncio.timeout(_ERRORS_SECONDS):
                    return await self.engine.truncation_errors()
        return {}

    async def find(self, model: str) -> str:
        """Return the digest of the z that a model means; "" for ``auto`` and dispatchers, which have none of their own.

        Raises:
            ModelNotFound: It does not; says which models there are.
            NotAllowed: The client's key is not for this model.
            ZfleetError: The registry cannot answer.
        """
        try:
            name = self._named(model)
            expert = (self.served.dispatcher or self.served.classifier) if name.auto else name.expert
            z = BASE_Z if expert is None else (await self.experts.resolve(expert)).z_digest
            return "" if name.auto else z
        except ModelNotFound as error:
            raise await self._unknown(model, error) from error

    @asynccontextmanager
    async def answer(
        self, model: str, user_text: str | None, requests: Sequence[GenerationRequest], task: str | None = None
    ) -> AsyncIterator[Answer]:
        """Answer one prompt or several inside the block; leaving it ends the answer, finished or not.

        Args:
            model: The request's ``model``.
            user_text: The text of the user, by which dispatchers choose; None if there is no such text.
            requests: One request of the second pass for each prompt; all get the same z, which is chosen here.
            task: The task that the request names, for dispatchers of kind ``few_shot``.

        Yields:
            The answer. Its chunks are numbered over all prompts: those of the second follow the ``n`` of the first.

        Raises:
            ModelNotFound: There is no such model; says which models there are.
            NotAllowed: The client's key is not for this model.
            ZfleetError: Any error of the registry and the engine before the first chunk.
        """
        route = await self._route(model, user_text, task)
        current.get().answered_by(tuple(part.expert for part in route.parts))
        start = time.perf_counter()
        answers = [self._generate(replace(request, z_digest=route.z), place) for place, request in enumerate(requests)]
        async with aclosing(answers[0] if len(answers) == 1 else merged(answers)) as chunks:
            first = await anext(chunks)
            yield Answer(route, _chain(first, chunks), start)

    async def _generate(self, request: GenerationRequest, place: int) -> AsyncGenerator[Chunk, None]:
        before = place * request.sampling.n
        async with closing(self.engine.generate(request)) as chunks:
            async for chunk in chunks:
                check_z(request, chunk)
                yield replace(chunk, index=before + chunk.index)

    async def _route(self, model: str, user_text: str | None, task: str | None) -> Route:
        try:
            name = self._named(model)
            if name.auto:
                return await self.first_pass.auto(user_text, task)
            if name.expert is None:
                return Route(self.served.base, (), None, BASE_Z, None)
            version = await self.experts.resolve(name.expert)
        except ModelNotFound as error:
            raise await self._unknown(model, error) from error
        if version.is_dispatcher:
            return await self.first_pass.by(version, user_text, task)
        z = await self.experts.ready(version)
        return Route(f"{self.served.base}:{version.reference}", parts_of(version), None, z, None)

    def _named(self, model: str) -> ModelName:
        """Read a request's ``model``.

        Raises:
            ModelNotFound: It is no model of this base.
            NotAllowed: The client's key is not for it.
        """
        name = parse_model(model, self.served.base)
        if named := name.name:
            current.get().check_named(named)
        return name

    def _chooser(self) -> str:
        """Return the name of who chooses for ``auto``, without version and alias."""
        named = REFERENCE.fullmatch(self.served.dispatcher or self.served.classifier)
        return named["name"] if named else ""

    async def _unknown(self, model: str, error: ModelNotFound) -> ModelNotFound:
        try:
            known = f"this service has: {', '.join(await self.models())}"
        except RegistryError:
            known = f"this service has the base {self.served.base}, and cannot list its experts now"
        return ModelNotFound(f"model {shown(model)} does not exist: {error.message}", known)

    def _render(self, prompt: str) -> tuple[int, ...]:
        return self.text.chat([{"role": "user", "content": prompt}])


async def _chain(first: Chunk, rest: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    yield first
    async for chunk in rest:
        yield chunk
