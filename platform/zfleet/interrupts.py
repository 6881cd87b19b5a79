"""Ctrl-C and its like, for commands that run until they are ended."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Have SIGINT and SIGTERM raise ``KeyboardInterrupt`` inside the block.

    By default Python keeps ignoring SIGINT if it was ignored at the start, as a shell does for background jobs.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
