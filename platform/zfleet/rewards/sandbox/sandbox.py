"""Judge code in boxes that are started ahead of time and used once."""

from __future__ import annotations

import atexit
import io
import logging
import os
import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from queue import Empty, Queue
from typing import IO, Any, Literal

from zfleet.errors import SandboxError
from zfleet.rewards.sandbox.box import Box
from zfleet.rewards.sandbox.bubblewrap import bare, boxed
from zfleet.rewards.sandbox.exam import Exam, Limits, Verdict
from zfleet.rewards.sandbox.inside.messages import READY, readable, receive, send
from zfleet.rewards.sandbox.syscalls import refusals

Isolation = Literal["bubblewrap", "unsafe"]

log = logging.getLogger(__name__)

_TRIAL = Exam("def right():\n    return 1", ("right",), ("assert right() == 1",))
_START_SECONDS = 60.0
AT_ONCE = max(2, os.cpu_count() or 2)
"""How many exams run side by side: one for each core, and at least two, so that one box starts during an exam."""


class Sandbox:
    """Examines completions, from any number of threads. Close it, or use it as a context manager.

    Starting a box takes most of the time of an exam, so some boxes wait ready. No box serves two completions.
    """

    def __init__(self, limits: Limits | None = None, isolation: Isolation = "bubblewrap", ready: int = AT_ONCE) -> None:
        """Start boxes, and run one trial exam.

        Args:
            limits: The limits of each exam.
            isolation: ``unsafe`` runs code as this user, with this user's files and network.
            ready: How many pairs of boxes wait ready.

        Raises:
            SandboxError: This machine cannot make a box; quotes bubblewrap.
        """
        self._limits = limits or Limits()
        self._isolated = isolation == "bubblewrap"
        self._examiner, self._candidate = (
            boxed(program, self._limits) if self._isolated else bare(program) for program in ("examiner", "candidate")
        )
        self._ready: Queue[_Pair | SandboxError] = Queue(ready)
        self._closed = threading.Event()
        self._pairs, self._fewer = 0, threading.Condition()
        if not self._isolated:
            log.warning(
                "a model's code runs on this machine without a sandbox, because the reward has `sandbox: unsafe`"
            )
        # The kernel kills bubblewrap when the thread that started it ends (PR_SET_PDEATHSIG), so this thread lives
        # until every box has ended.
        self._filling = threading.Thread(target=self._fill, name="zfleet-sandbox", daemon=True)
        self._filling.start()
        try:
            self._try()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def examine(self, exam: Exam) -> Verdict:
        """Run a completion against its tests.

        Raises:
            SandboxError: No box can be started, or the examiner failed: it is unknown whether the completion is right.
        """
        if self._closed.is_set():
            raise SandboxError("the sandbox is closed", "open another one")
        pair = self._take()
        try:
            return pair.examine(exam, self._limits)
        finally:
            self._end(pair)

    def close(self) -> None:
        """End all boxes that wait, and wait for exams that are under way."""
        self._closed.set()
        while self._filling.is_alive():
            with suppress(Empty):
                pair = self._ready.get(timeout=0.05)
                if isinstance(pair, _Pair):
                    self._end(pair)

    def _take(self) -> _Pair:
        pair = self._ready.get()
        if isinstance(pair, SandboxError):
            raise pair
        return pair

    def _fill(self) -> None:
        while not self._closed.is_set():
            try:
                pair: _Pair | SandboxError = _Pair.start(self._examiner, self._candidate, self._isolated)
                with self._fewer:
                    self._pairs += 1
            except OSError as error:
                pair = SandboxError(f"no sandbox can be started: {error}", "free processes, memory or files")
            self._ready.put(pair)
        with self._fewer:
            self._fewer.wait_for(lambda: not self._pairs)

    def _end(self, pair: _Pair) -> None:
        pair.end()
        with self._fewer:
            self._pairs -= 1
            self._fewer.notify()

    def _try(self) -> None:
        pair = self._take()
        try:
            verdict = pair.examine(_TRIAL, self._limits)
        except SandboxError as error:
            raise SandboxError(
                f"{error.message}: {pair.complaints() or 'no reason was given'}", error.remedy
            ) from error
        finally:
            self._end(pair)
        if not verdict.passed:
            raise SandboxError(f"the sandbox judges right code as wrong: {verdict.reason}", "report this as a bug")


def look_at_sandbox() -> str:
    """Say in one line what the sandbox is made of on this machine, or why there is none and how to change that."""
    try:
        with Sandbox(ready=1):
            version = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    except SandboxError as error:
        return f"no: {error.message} ({error.remedy})"
    return f"yes: {version}, {'with' if refusals() else 'without'} libseccomp"


@cache
def shared_sandbox(limits: Limits, isolation: Isolation) -> Sandbox:
    """Return this process's sandbox with these limits; it closes when the process ends.

    Raises:
        SandboxError: As ``Sandbox``.
    """
    sandbox = Sandbox(limits, isolation)
    atexit.register(sandbox.close)
    return sandbox


@dataclass(frozen=True)
class _Pair:
    """An examiner and its candidate, started and waiting for an exam.

    Attributes:
        examiner: Runs the tests.
        candidate: Runs the completion.
        stderr: The error output of both.
        started: Set when both boxes run.
    """

    examiner: Box
    candidate: Box
    stderr: io.BufferedRandom
    started: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def start(cls, examiner_command: list[str], candidate_command: list[str], isolated: bool) -> _Pair:
        stderr = os.fdopen(os.memfd_create("zfleet-sandbox"), "w+b")
        examiner_end, candidate_end = socket.socketpair()
        with examiner_end, candidate_end:
            try:
                candidate = Box.start(
                    candidate_command, isolated, stdin=candidate_end, stdout=candidate_end, stderr=stderr
                )
                try:
                    examiner = Box.start(
                        [*examiner_command, str(examiner_end.fileno())],
                        isolated,
                        keep=[examiner_end.fileno()],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=stderr,
                    )
                except OSError:
                    candidate_end.close()
                    readable(examiner_end.fileno(), _START_SECONDS)
                    candidate.kill()
                    candidate.wait()
                    raise
            except OSError:
                stderr.close()
                raise
        return cls(examiner, candidate, stderr)

    def examine(self, exam: Exam, limits: Limits) -> Verdict:
        job: dict[str, Any] = asdict(exam) | {
            "limits": {
                "seconds": limits.seconds,
                "memory": limits.memory,
                "file": limits.disk,
                "filter": refusals().hex(),
            }
        }
        jobs, results = self._pipes()
        broken = SandboxError(
            "the sandbox ended without a verdict",
            "check that bubblewrap may create user namespaces here (docs/sandbox.md), and that the task's tests run",
        )
        verdicts = results.fileno()
        try:
            if not readable(verdicts, _START_SECONDS) or receive(verdicts) != READY:
                raise broken
            self.started.set()
            send(jobs.fileno(), job)
            if not readable(verdicts, limits.seconds):
                return Verdict(False, f"no verdict within {limits.seconds:g} s")
            verdict = receive(verdicts)
        except (OSError, EOFError, ValueError) as error:
            raise broken from error
        passed = verdict["passed"]
        return Verdict(None if passed is None else bool(passed), str(verdict["reason"]))

    def complaints(self) -> str:
        """Return the error output of bubblewrap and Python."""
        self.stderr.seek(0)
        return self.stderr.read(2000).decode(errors="replace").strip()

    def end(self) -> None:
        jobs, results = self._pipes()
        # A box that is killed while bubblewrap sets it up would leave a process behind.
        if not self.started.is_set():
            readable(results.fileno(), _START_SECONDS)
        for box in (self.candidate, self.examiner):
            box.kill()
        for box in (self.candidate, self.examiner):
            box.wait()
        for file in (jobs, results, self.stderr):
            with suppress(OSError):
                file.close()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Return the examiner's input and output."""
        process = self.examiner.process
        assert process.stdin is not None
        assert process.stdout is not None
        return process.stdin, process.stdout
