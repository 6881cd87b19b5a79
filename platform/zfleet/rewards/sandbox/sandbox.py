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
from typing import Any, Literal

from zfleet.errors import SandboxError
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

_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""All that a program sees of it, boxed or not."""


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
        self._examiner, self._candidate = (
            _command(program, isolation, self._limits) for program in ("examiner", "candidate")
        )
        self._ready: Queue[_Pair | SandboxError] = Queue(ready)
        self._closed = threading.Event()
        if isolation == "unsafe":
            log.warning("code that a model wrote runs on this machine without a sandbox, as the reward's spec says")
        # Boxes end with the thread that starts them (PR_SET_PDEATHSIG): it must last as long as they are wanted.
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
            pair.end()

    def close(self) -> None:
        """End all boxes that wait."""
        self._closed.set()
        while self._filling.is_alive() or not self._ready.empty():
            with suppress(Empty):
                pair = self._ready.get(timeout=0.05)
                if isinstance(pair, _Pair):
                    pair.end()

    def _take(self) -> _Pair:
        pair = self._ready.get()
        if isinstance(pair, SandboxError):
            raise pair
        return pair

    def _fill(self) -> None:
        while not self._closed.is_set():
            try:
                pair: _Pair | SandboxError = _Pair.start(self._examiner, self._candidate)
            except OSError as error:
                pair = SandboxError(f"no sandbox can be started: {error}", "free processes, memory or files")
            self._ready.put(pair)

    def _try(self) -> None:
        pair = self._take()
        try:
            verdict = pair.examine(_TRIAL, self._limits)
        except SandboxError as error:
            raise SandboxError(
                f"{error.message}: {pair.complaints() or 'no reason was given'}", error.remedy
            ) from error
        finally:
            pair.end()
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


def _command(program: str, isolation: Isolation, limits: Limits) -> list[str]:
    return bare(program) if isolation == "unsafe" else boxed(program, limits)


@dataclass(frozen=True)
class _Pair:
    """An examiner and its candidate, started and waiting for an exam."""

    examiner: subprocess.Popen[bytes]
    candidate: subprocess.Popen[bytes]
    said: io.BufferedRandom
    started: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def start(cls, examiner_command: list[str], candidate_command: list[str]) -> _Pair:
        said = os.fdopen(os.memfd_create("zfleet-sandbox"), "w+b")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            candidate = subprocess.Popen(
                candidate_command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=said, env=_ENVIRONMENT
            )
            try:
                examiner = subprocess.Popen(
                    [*examiner_command, str(ours.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    pass_fds=[ours.fileno()],
                    env=_ENVIRONMENT,
                )
            except OSError:
                candidate.kill()
                candidate.wait()
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
        assert self.examiner.stdin is not None
        assert self.examiner.stdout is not None
        broken = SandboxError(
            "the sandbox ended without a verdict",
            "see that bubblewrap may create user namespaces here (docs/sandbox.md), and that the task's tests run",
        )
        verdicts = self.examiner.stdout.fileno()
        try:
            if not readable(verdicts, _START_SECONDS) or receive(verdicts) != READY:
                raise broken
            self.started.set()
            send(self.examiner.stdin.fileno(), job)
            if not readable(verdicts, limits.seconds):
                return Verdict(False, f"no verdict within {limits.seconds:g} s")
            found = receive(verdicts)
        except (OSError, EOFError, ValueError) as error:
            raise broken from error
        return Verdict(bool(found["passed"]), str(found["reason"]))

    def complaints(self) -> str:
        """What bubblewrap and Python said before they ended."""
        self.said.seek(0)
        return self.said.read(2000).decode(errors="replace").strip()

    def end(self) -> None:
        # Bubblewrap that is killed while it sets its box up leaves the box behind.
        assert self.examiner.stdout is not None
        if not self.started.is_set():
            readable(self.examiner.stdout.fileno(), _START_SECONDS)
        for box in (self.candidate, self.examiner):
            box.kill()
        for box in (self.candidate, self.examiner):
            box.wait()
        for file in (self.examiner.stdin, self.examiner.stdout, self.said):
            assert file is not None
            with suppress(OSError):
                file.close()
