"""A request under way through the fleet, whichever replica answers it."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from zfleet.engine.contract import ChoicesRequest, Chunk, GenerationRequest, HiddenRequest, PromptRequest
from zfleet.errors import ZfleetError
from zfleet_cluster.fleet.link import Link
from zfleet_cluster.fleet.messages import (
    Generate,
    Hidden,
    Piece,
    PromptScored,
    ReadHidden,
    Reply,
    Score,
    Scored,
    ScorePrompt,
)

Work: TypeAlias = GenerationRequest | ChoicesRequest | HiddenRequest | PromptRequest

Whole: TypeAlias = tuple[Any, ...]
"""All of what a request without a stream is answered by: scores, or a hidden state."""

_PREFIX = 32
"""Tokens, or characters, whose replica is preferred: a block of the prefix cache."""


@dataclass(eq=False)
class FleetRequest:
    """One request and its reader.

    Attributes:
        work: The request as the caller gave it.
        unended: How many of its answers have not ended.
        attempts: How often it was sent.
        answered: Whether anything arrived; from then on it cannot be sent again.
        link: The link to the replica that works on it.
        number: Its number on that link.
        done: Whether its reader has got everything.
    """

    work: Work
    unended: int
    attempts: int = 0
    answered: bool = False
    link: Link | None = None
    number: int = 0
    done: bool = False
    _arrived: asyncio.Queue[Chunk | Whole | ZfleetError] = field(default_factory=asyncio.Queue)

    @property
    def request_id(self) -> str | None:
        """Return the caller's name for the request; only those with a stream have one."""
        return self.work.request_id if isinstance(self.work, GenerationRequest) else None

    def preference(self, replica: str) -> int:
        """Rate how well a replica suits the request when loads are equal. Every client ranks replicas alike.

        Requests of one z with the same beginning go to one replica, which has their keys and values cached
        (rendezvous hashing: Thaler and Ravishankar, 1998).
        """
        beginning = f"{self.work.z_digest} {self.work.prompt[:_PREFIX]} {replica}"
        return zlib.crc32(beginning.encode(errors="surrogatepass"))

    def message(self, number: int) -> Generate | Score | ScorePrompt | ReadHidden:
        """Build the call for a replica."""
        match self.work:
            case GenerationRequest():
                return Generate(number, self.work)
            case ChoicesRequest():
                return Score(number, self.work)
            case PromptRequest():
                return ScorePrompt(number, self.work)
            case HiddenRequest():
                return ReadHidden(number, self.work)

    async def next(self) -> Chunk | Whole:
        """Wait for the next piece, or raise the error that ends the request."""
        item = await self._arrived.get()
        if isinstance(item, ZfleetError):
            raise item
        return item

    def assign(self, link: Link, number: int) -> None:
        """Note which replica works on the request now, and count its answers there."""
        self.attempts += 1
        self.link, self.number = link, number
        link.load += self.unended

    def take_back(self) -> None:
        """Expect nothing more of the replica that worked on the request."""
        if self.link is not None:
            self.link.load -= self.unended
            self.link = None

    def take(self, reply: Reply) -> None:
        """Hand on what a replica answered."""
        match reply:
            case Piece():
                self._put(reply.chunk)
            case Scored():
                self._put(reply.logprobs)
            case PromptScored():
                self._put(reply.scores)
            case Hidden():
                self._put(reply.state)
            case _:
                raise AssertionError(f"a {type(reply).__name__} answers no request")

    def _put(self, item: Chunk | Whole) -> None:
        self.answered = True
        if isinstance(item, tuple) or item.finish_reason is not None:
            self.unended -= 1
            if self.link is not None:
                self.link.load -= 1
        self._arrived.put_nowait(item)

    def end(self, error: ZfleetError | None = None) -> None:
        """End the request; the reader gets the error."""
        self.take_back()
        self.done = True
        if error is not None:
            self._arrived.put_nowait(error)
