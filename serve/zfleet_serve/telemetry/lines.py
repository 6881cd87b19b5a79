"""One line of JSON for each request that generates, for the operator's log."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from logging.handlers import WatchedFileHandler
from typing import Any

from zfleet.errors import ServeError


@dataclass
class RequestLine:
    """What is logged of a request.

    Attributes:
        request: Its id.
        operation: ``chat``, ``text_completion``, or ``shadow`` for a copy of a request.
        key: The id of the client's API key; None if the service asks for none.
        model: Who answered, version included; None if nobody was found.
        z: The digest of the z.
        dispatcher: The method of the first pass, if there was one.
        label: What it decided.
        confidence: How sure it was.
        prompt_tokens, completion_tokens: Of the second pass.
        first_pass_ms: How long the first pass took.
        first_token_ms, whole_ms: Since the request's body was read.
        outcome: ``stop`` and so on of the last choice, ``left`` if the client went away, or the error's class.
    """

    request: str
    operation: str
    key: str | None = None
    model: str | None = None
    z: str | None = None
    dispatcher: str | None = None
    label: str | None = None
    confidence: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_pass_ms: float | None = None
    first_token_ms: float | None = None
    whole_ms: float = 0.0
    outcome: str = "left"


@dataclass(frozen=True)
class Texts:
    """The texts of a request, which are logged only if the operator asks for them.

    Attributes:
        prompt: The user's text, if there is one.
        answers: What every choice says.
    """

    prompt: str | None
    answers: tuple[str, ...]


class RequestLog:
    """A file of such lines. Several gateways may write to one; it may be moved away at any time, as logrotate does.

    Args:
        file: Where lines are appended; None: nowhere.
        texts: Whether prompts and answers are logged.

    Raises:
        ServeError: The file cannot be written.
    """

    def __init__(self, file: str | None = None, texts: bool = False) -> None:
        self.texts = texts
        self._handler: logging.Handler | None = None
        if file is not None:
            try:
                self._handler = WatchedFileHandler(file, encoding="utf-8")
            except OSError as error:
                raise ServeError(
                    f"request_log is {file!r}, which cannot be written: {error.strerror}",
                    "name a file in a folder that exists and that the gateway's user may write to",
                ) from error

    def write(self, line: RequestLine, texts: Texts) -> None:
        """Append a line."""
        if self._handler is not None:
            written: dict[str, Any] = asdict(line) | (asdict(texts) if self.texts else {})
            record = logging.LogRecord("zfleet.requests", logging.INFO, "", 0, "%s", (json.dumps(written),), None)
            self._handler.handle(record)

    def close(self) -> None:
        """Close the file."""
        if self._handler is not None:
            self._handler.close()
