"""The cache of artifacts by sha256, and calls that threads share."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zfleet_registry import downloads
from zfleet_registry.downloads import cached
from zfleet_registry.shared_calls import SharedCalls

DATA = b"a z"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def never() -> bytes:
    raise AssertionError("downloaded again")


def file_of(digest: str) -> Path:
    return downloads.folder() / digest[:2] / digest


def test_a_file_is_downloaded_once() -> None:
    assert cached(DIGEST, lambda: DATA) == DATA
    assert cached(DIGEST, never) == DATA


def test_a_damaged_file_is_downloaded_again(caplog: pytest.LogCaptureFixture) -> None:
    cached(DIGEST, lambda: DATA)
    file_of(DIGEST).write_bytes(b"a y")
    assert cached(DIGEST, lambda: DATA) == DATA
    assert "is damaged: it is downloaded again" in caplog.text
    assert cached(DIGEST, never) == DATA


def test_a_file_of_another_digest_is_returned_and_not_kept() -> None:
    """Who loads it says what is wrong."""
    assert cached(DIGEST, lambda: b"another") == b"another"
    assert not file_of(DIGEST).exists()


def test_a_cache_that_cannot_be_written_costs_nothing(cache: Path) -> None:
    cache.write_bytes(b"a file where the folder would be")
    assert cached(DIGEST, lambda: DATA) == DATA


def test_what_was_not_used_for_longest_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "LARGEST", 250)
    kept = [hashlib.sha256(bytes([number]) * 100).hexdigest() for number in range(3)]
    for number in range(2):
        cached(kept[number], lambda number=number: bytes([number]) * 100)  # type: ignore[misc]
        os.utime(file_of(kept[number]), (number + 1, number + 1))
    cached(kept[0], never)  # used now
    downloads._shrink(downloads.folder())
    assert file_of(kept[1]).exists()
    # One whose digest ends in 0, which looks.
    big = next(data for number in range(1000) if hashlib.sha256(data := b"%100d" % number).hexdigest().endswith("0"))
    cached(hashlib.sha256(big).hexdigest(), lambda: big)
    assert not file_of(kept[1]).exists()
    assert file_of(kept[0]).exists()
    assert file_of(hashlib.sha256(big).hexdigest()).exists()


def test_processes_download_a_file_once(cache: Path, tmp_path: Path) -> None:
    """Each of four processes would write its own line."""
    script = f"""
import sys, time
from pathlib import Path
from zfleet_registry.downloads import cached

def download():
    with Path({str(tmp_path / "log")!r}).open("a") as log:
        log.write("downloaded\\n")
    time.sleep(0.5)
    return {DATA!r}

assert cached({DIGEST!r}, download) == {DATA!r}
"""
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "downloaded\n"


class Gate:
    """A call that waits until it is let through."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        number = self.calls
        self.begun.release()
        assert self.open.wait(60)
        return number


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(6000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not become true")


def test_threads_share_the_next_call_and_not_the_one_under_way() -> None:
    """So an answer is never older than its question."""
    shared, gate = SharedCalls(), Gate()
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(shared, "math", gate)
        assert gate.begun.acquire(timeout=60)
        waiting = [pool.submit(shared, "math", gate) for _ in range(8)]
        other = pool.submit(shared, "code", lambda: 17)
        assert other.result(60) == 17
        wait_until(lambda: "math" in shared._next)
        gate.open.set()
        assert first.result(60) == 1
        assert {one.result(60) for one in waiting} <= set(range(2, gate.calls + 1))
    assert gate.calls < 9
    assert not shared._next
    assert not shared._turns


def test_an_error_reaches_every_thread_that_waits() -> None:
    shared = SharedCalls()

    def fail() -> None:
        raise ValueError("away")

    for _ in range(2):
        with pytest.raises(ValueError, match="away"):
            shared("math", fail)
    assert shared("math", lambda: 1) == 1
