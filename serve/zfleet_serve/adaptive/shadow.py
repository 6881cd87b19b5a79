"""Copies of requests that an expert's shadow answers, and nobody sees: how a version does before anybody gets it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from zfleet.engine.contract import Engine, GenerationRequest, check_z
from zfleet.engine.streams import closing
from zfleet.errors import ZfleetError
from zfleet_registry import ExpertVersion
from zfleet_serve.access.context import RequestContext, current
from zfleet_serve.access.fair_queue import Tenant
from zfleet_serve.access.keys import PRIORITIES
from zfleet_serve.adaptive.experts import Experts
from zfleet_serve.adaptive.names import parse_model

_LOG = logging.getLogger(__name__)

MOST = 8
"""The most requests that are copied at once; beyond that, copies are left out, and counted."""
LEFT_OUT = "left out"

# Behind every client, and on nobody's account.
_TENANT = Tenant("shadow", rank=len(PRIORITIES))


@dataclass(frozen=True)
class ShadowAnswer:
    """What became of a copy.

    Attributes:
        request: The id of the request that was copied.
        expert: The version that answered: ``math/4``.
        z: The digest of its z.
        prompt_tokens, completion_tokens: Of all prompts and answers.
        seconds: How long it took, waiting for its turn included.
        outcome: Why the last answer ended, the error's class, or ``LEFT_OUT``.
        answers: What each choice says, those of the first prompt first.
    """

    request: str
    expert: str
    z: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    outcome: str = LEFT_OUT
    answers: tuple[str, ...] = ()


class Shadows:
    """Copies requests.

    Args:
        engine: Answers copies, too.
        experts: Knows the shadows, and loads them.
        base: The base's name in requests.

    Attributes:
        told: Is told what became of each copy.
    """

    def __init__(self, engine: Engine, experts: Experts, base: str) -> None:
        self.told: Callable[[ShadowAnswer], None] = lambda answer: None
        self._engine = engine
        self._experts = experts
        self._base = base
        self._running: set[asyncio.Task[None]] = set()

    async def copy(self, request: str, model: str, prompts: Sequence[GenerationRequest]) -> None:
        """Have the shadow of a model answer a request in the background, if it has one.

        Args:
            request: Its id.
            model: As the request names it; only the bare name of an expert has a shadow.
            prompts: What the client's answers are generated from.
        """
        version: ExpertVersion | None = None
        # The client has an answer, whatever becomes of its copy.
        with suppress(ZfleetError):
            expert = parse_model(model, self._base).expert
            version = None if expert is None else await self._experts.shadow(expert)
        if version is None:
            return
        if len(self._running) >= MOST:
            self.told(ShadowAnswer(request, version.reference, version.z_digest))
            return
        task = asyncio.create_task(self._answered(request, version, prompts))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """End the copies under way."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _answered(self, request: str, version: ExpertVersion, prompts: Sequence[GenerationRequest]) -> None:
        current.set(RequestContext(_TENANT))
        began, tokens, outcome = time.perf_counter(), 0, ""
        # {(prompt, choice): text}: answers end in any order.
        said: dict[tuple[int, int], str] = {}
        try:
            z = await self._experts.ready(version)
            for place, prompt in enumerate(prompts):
                copied = replace(prompt, z_digest=z, stream=False)
                copied = replace(copied, request_id=f"shadow-{copied.request_id}")
                async with closing(self._engine.generate(copied)) as chunks:
                    async for chunk in chunks:
                        check_z(copied, chunk)
                        tokens += len(chunk.token_ids)
                        said[place, chunk.index] = said.get((place, chunk.index), "") + chunk.text
                        outcome = chunk.finish_reason or outcome
        except ZfleetError as error:
            outcome = type(error).__name__
        except Exception as error:
            # Nobody awaits this task: without a line here, nobody would hear of it.
            _LOG.exception("a shadow of %s failed", version.reference)
            outcome = type(error).__name__
        answer = ShadowAnswer(
            request=request,
            expert=version.reference,
            z=version.z_digest,
            prompt_tokens=sum(len(prompt.prompt) for prompt in prompts),
            completion_tokens=tokens,
            seconds=time.perf_counter() - began,
            outcome=outcome,
            answers=tuple(said[place] for place in sorted(said)),
        )
        self.told(answer)
