"""Locks that the processes of one machine share; the system releases them when a process dies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_FIRST_LOOK_SECONDS = 10.0


@contextmanager
def alone(lock: Path, doing: str, progress: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Hold a lock inside the block; a process that has to wait for it logs why.

    Args:
        lock: A file in a folder that exists.
        doing: What the holder does, for a process that waits: ``computes the factors in /cache/factors/...``.
        progress: How far the holder is. It is logged after 10 s, 20 s, 40 s and so on; empty: nothing to say.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        log.warning("another process %s: waiting for it", doing)
        _wait(held, doing, progress)
    try:
        yield
    finally:
        held.release()


def _wait(held: FileLock, doing: str, progress: Callable[[], str]) -> None:
    seconds = _FIRST_LOOK_SECONDS
    while True:
        try:
            held.acquire(timeout=seconds)
            return
        except Timeout:
            if so_far := progress():
                log.warning("another process still %s: %s", doing, so_far)
            seconds *= 2
