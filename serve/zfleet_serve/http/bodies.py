"""Reading the bodies of requests: no more than the service can use, and never in the event loop."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from zfleet.errors import BodyTooLarge, InvalidRequest
from zfleet_serve.access.context import current
from zfleet_serve.http.key_defaults import parse_body

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)

_LEAST_BYTES = 256 * 1024
_BYTES_A_TOKEN = 64
"""More than a token takes in JSON, as text with escapes or as an id."""
_SHORT = 16 * 1024
"""A text of so many bytes or characters is read within milliseconds."""
_BODY_SECONDS = 60.0
"""How long a body may take to arrive."""


def body_limit(mib: float | None, max_length: int) -> int:
    """Return the size of the largest body that a service reads, in bytes.

    Args:
        mib: The limit in its spec; None is as much as the base can use.
        max_length: The longest prompt and answer together, in tokens.
    """
    return _LEAST_BYTES + _BYTES_A_TOKEN * max_length if mib is None else int(mib * 2**20)


class Reader:
    """Reads bodies, and prompts in them, in threads of its own, while the event loop goes on with other answers.

    Args:
        most: The size of the largest body that is read, in bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._short = ThreadPoolExecutor(1, "reads short")
        self._long = ThreadPoolExecutor(1, "reads long")

    async def read(self, work: Callable[[], T], size: int) -> T:
        """Do work on the text of a request in a thread. Short texts do not wait behind long ones.

        Args:
            work: Does the work.
            size: Bytes or characters of the text.
        """
        thread = self._short if size <= _SHORT else self._long
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    def body_of(self, kind: type[B]) -> Callable[[Request], Awaitable[B]]:
        """Make a FastAPI dependency that reads and checks the body of a request.

        Args:
            kind: The schema of the body.
        """

        async def body(request: Request) -> B:
            sent = request.headers.get("content-type", "")
            # A web page can send other types to a service on this machine without asking.
            if sent.partition(";")[0].strip().lower() != "application/json":
                raise InvalidRequest(f"the body's content-type is {sent!r}", "send JSON, as application/json")
            # Some clients begin a text with a byte order mark.
            data = (await self._bytes(request)).removeprefix(codecs.BOM_UTF8)
            context = current.get()
            try:
                return await self.read(lambda: parse_body(kind, data, context), len(data))
            except ValidationError as error:
                raise RequestValidationError(error.errors(include_url=False, include_input=False)) from error

        return body

    async def _bytes(self, request: Request) -> bytes:
        """Read the whole body. It is refused by its content-length, or as soon as it is too long."""
        # Python refuses to read numbers of thousands of digits.
        length = request.headers.get("content-length", "")[:20]
        if length.isdecimal() and int(length) > self._most:
            raise self._too_large(f"of {length} bytes")
        pieces, size = [], 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for piece in request.stream():
                    size += len(piece)
                    if size > self._most:
                        raise self._too_large("without a length")
                    pieces.append(piece)
        except TimeoutError:
            # The connection closes: the rest of the body may take for ever.
            message = f"the body did not arrive within {_BODY_SECONDS:g} s"
            raise HTTPException(408, message, {"Connection": "close"}) from None
        except ClientDisconnect:
            # Nobody reads this, but any other error would count as a defect of the service in its log.
            raise InvalidRequest("the client left before all of its body was read", "send it again") from None
        return b"".join(pieces)

    def _too_large(self, what: str) -> BodyTooLarge:
        return BodyTooLarge(
            f"a body {what} is larger than the {self._most} that this service reads",
            "shorten the prompt, send fewer prompts at once, or raise max_body_mib of the service",
        )
