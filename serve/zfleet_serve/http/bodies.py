"""Reading the bodies of requests: never more than the service can use, and never where others wait."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from zfleet.errors import BodyTooLarge, InvalidRequest

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)

_LEAST_BYTES = 256 * 1024
_BYTES_A_TOKEN = 64
"""More than a token takes in JSON, as text with escapes or as an id."""
_SHORT = 16 * 1024
"""What is read within milliseconds, in bytes or characters."""


def body_limit(mib: float | None, max_length: int) -> int:
    """The largest body that a service reads, in bytes.

    Args:
        mib: What its spec says; None is what a base can use.
        max_length: The longest prompt and answer together, in tokens.
    """
    return _LEAST_BYTES + _BYTES_A_TOKEN * max_length if mib is None else int(mib * 2**20)


class Reader:
    """Reads bodies, and prompts in them, in threads of its own: the event loop goes on with the answers of others.

    Args:
        most: The largest body that is read, in bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._short = ThreadPoolExecutor(1, "reads short")
        self._long = ThreadPoolExecutor(1, "reads long")

    async def read(self, work: Callable[[], T], size: int) -> T:
        """Do work on what a client sent. What is short does not wait behind what is long.

        Args:
            work: What to do.
            size: Bytes or characters of what it reads.
        """
        thread = self._short if size <= _SHORT else self._long
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    def body_of(self, kind: type[B]) -> Callable[[Request], Awaitable[B]]:
        """A dependency that gives the body of a request, checked.

        Args:
            kind: What the body must be.
        """

        async def body(request: Request) -> B:
            sent = request.headers.get("content-type", "")
            # A web page can send other types to a service on this machine without asking.
            if sent.partition(";")[0].strip().lower() != "application/json":
                raise InvalidRequest(f"the body's content-type is {sent!r}", "send JSON, as application/json")
            # Some clients begin a text with a byte order mark.
            data = (await self._bytes(request)).removeprefix(codecs.BOM_UTF8)
            try:
                return await self.read(lambda: kind.model_validate_json(data), len(data))
            except ValidationError as error:
                raise RequestValidationError(error.errors(include_url=False, include_input=False)) from error

        return body

    async def _bytes(self, request: Request) -> bytes:
        """The whole body, refused before it is read where its length is told, else as soon as it is too long."""
        # Python reads no number of thousands of digits.
        told = request.headers.get("content-length", "")[:20]
        if told.isdecimal() and int(told) > self._most:
            raise self._too_large(f"of {told} bytes")
        pieces, size = [], 0
        try:
            async for piece in request.stream():
                size += len(piece)
                if size > self._most:
                    raise self._too_large("without a length")
                pieces.append(piece)
        except ClientDisconnect:
            # Nobody reads this; what is raised here otherwise counts as a defect of the service in its log.
            raise InvalidRequest("the client left before all of its body was read", "send it again") from None
        return b"".join(pieces)

    def _too_large(self, what: str) -> BodyTooLarge:
        return BodyTooLarge(
            f"a body {what} is larger than the {self._most} that this service reads",
            "shorten the prompt, send fewer prompts at once, or raise max_body_mib of the service",
        )
