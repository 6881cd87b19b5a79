"""Verdicts on code, from boxes that are started ahead and used once."""

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
"""Verdicts that are sought side by side: one for each core, and where there is one, another that starts meanwhile."""


class Sandbox:
    """Gives verdicts, any number of threads at a time; close it, or use it as a context.

    A box costs most of its time to start, so that some wait ready; none serves two completions.
    """

    def __init__(self, limits: Limits | None = None, isolation: Isolation = "bubblewrap", ready: int = AT_ONCE) -> None:
        """Start boxes, and try one.

        Args:
            limits: Of each verdict.
            isolation: ``unsafe`` runs code as this user, with this user's files and network.
            ready: Pairs of boxes that wait.

        Raises:
            SandboxError: This machine cannot make a box; says what bubblewrap said.
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
            log.warning("code that a model wrote runs on this machine without a sandbox, as the reward's spec says")
        # The kernel kills bubblewrap with the thread that started it (PR_SET_PDEATHSIG): it outlasts every box.
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
            SandboxError: No box can be started, or the examiner broke: nobody knows whether the completion is right.
        """
        if self._closed.is_set():
            raise SandboxError("the sandbox is closed", "open another one")
        pair = self._take()
        try:
            return pair.examine(exam, self._limits)
        finally:
            self._end(pair)

    def close(self) -> None:
        """End all boxes that wait, and wait for verdicts under way."""
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
            raise SandboxError(f"the sandbox calls right code wrong: {verdict.reason}", "report this")


@cache
def shared_sandbox(limits: Limits, isolation: Isolation) -> Sandbox:
    """This process's sandbox with these limits; it closes with the process.

    Raises:
        SandboxError: As ``Sandbox``.
    """
    sandbox = Sandbox(limits, isolation)
    atexit.register(sandbox.close)
    return sandbox


@dataclass(frozen=True)
class _Pair:
    """An examiner and its candidate, started and waiting for an exam."""

    examiner: Box
    candidate: Box
    said: io.BufferedRandom
    started: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def start(cls, examiner_command: list[str], candidate_command: list[str], isolated: bool) -> _Pair:
        said = os.fdopen(os.memfd_create("zfleet-sandbox"), "w+b")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                candidate = Box.start(candidate_command, isolated, stdin=theirs, stdout=theirs, stderr=said)
                try:
                    examiner = Box.start(
                        [*examiner_command, str(ours.fileno())],
                        isolated,
                        keep=[ours.fileno()],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=said,
                    )
                except OSError:
                    theirs.close()
                    readable(ours.fileno(), _START_SECONDS)
                    candidate.kill()
                    candidate.wait()
                    raise
            except OSError:
                said.close()
                raise
        return cls(examiner, candidate, said)

    def examine(self, exam: Exam, limits: Limits) -> Verdict:
        job: dict[str, Any] = asdict(exam) | {
            "limits": {
                "seconds": limits.seconds,
                "memory": limits.memory,
                "file": limits.disk,
                "filter": refusals().hex(),
            }
        }
        asked, told = self._pipes()
        broken = SandboxError(
            "the sandbox ended without a verdict",
            "see that bubblewrap may create user namespaces here (docs/sandbox.md), and that the task's tests run",
        )
        verdicts = told.fileno()
        try:
            if not readable(verdicts, _START_SECONDS) or receive(verdicts) != READY:
                raise broken
            self.started.set()
            send(asked.fileno(), job)
            if not readable(verdicts, limits.seconds):
                return Verdict(False, f"no verdict within {limits.seconds:g} s")
            found = receive(verdicts)
        except (OSError, EOFError, ValueError) as error:
            raise broken from error
        passed = found["passed"]
        return Verdict(None if passed is None else bool(passed), str(found["reason"]))

    def complaints(self) -> str:
        """What bubblewrap and Python said before they ended."""
        self.said.seek(0)
        return self.said.read(2000).decode(errors="replace").strip()

    def end(self) -> None:
        asked, told = self._pipes()
        # A box that is killed while bubblewrap sets it up is left behind.
        if not self.started.is_set():
            readable(told.fileno(), _START_SECONDS)
        for box in (self.candidate, self.examiner):
            box.kill()
        for box in (self.candidate, self.examiner):
            box.wait()
        for file in (asked, told, self.said):
            with suppress(OSError):
                file.close()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """The examiner's input and output."""
        process = self.examiner.process
        assert process.stdin is not None
        assert process.stdout is not None
        return process.stdin, process.stdout
