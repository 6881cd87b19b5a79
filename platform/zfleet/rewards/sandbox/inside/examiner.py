"""The program that runs the tests. It decides the verdict and sends it to the host; the completion runs elsewhere."""

from __future__ import annotations

import builtins
import os
import sys
from typing import Any

from .link import Link, Settled
from .lockdown import lock_down
from .messages import receive, send
from .passed import ExaminersWire
from .remote import Ended, connect

_SHOWN = 200
"""The most characters of a failing test that a reason quotes."""

_OPENED: list[object] = []
"""The files that the tests opened."""

_ENDING = (StopIteration, StopAsyncIteration, GeneratorExit)


def main() -> None:
    """Read a job from standard input, write the verdict to standard output; argument 1 is the candidate's channel."""
    verdicts = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    channel = int(sys.argv[1])
    # The host starts its clock on this message, so that the time to start boxes does not count.
    send(verdicts, receive(channel))
    job = receive(0)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    lock_down(job["limits"])
    sys.addaudithook(_note_opened)
    send(verdicts, verdict(channel, job))


def verdict(channel: int, job: dict[str, Any]) -> dict[str, Any]:
    """Run a job's tests.

    Args:
        channel: The descriptor of the candidate's channel.
        job: The fields of an ``Exam``, and the ``limits`` of its boxes.

    Returns:
        ``passed`` and ``reason`` of a ``Verdict``.
    """
    tests = _Tests(channel, job["names"])
    error = _error(job, tests)
    # A test may have caught the exception that settled the verdict, and continued.
    error = Settled.all[0] if Settled.all else error
    if error is not None and _missing_here(error):
        error = Settled(None, f"a test needs something that the box does not have: {_described(error)}").with_traceback(
            error.__traceback__
        )
    if error is not None and (tests.replaced or _OPENED) and not isinstance(error, Settled):
        action = "replaces input or output" if tests.replaced else "opens a file"
        doubt = f"a test {action}, which the tested code has of its own: {_described(error)}"
        error = Settled(None, doubt).with_traceback(error.__traceback__)
    if error is None:
        return {"passed": True, "reason": f"all {len(job['tests'])} tests pass"}
    line = _shortened(_line(error, job))
    if isinstance(error, Settled):
        settled = _shortened(str(error))
        reason = settled if error.passed is False else f"{line}: cannot tell: {settled}"
    else:
        reason = f"{line}: {_described(error)}" if line else _described(error)
    # Half of a surrogate pair cannot be printed or stored, so it is replaced.
    passed = error.passed if isinstance(error, Settled) else False
    return {"passed": passed, "reason": reason.encode(errors="replace").decode()}


class _Tests(Link):
    """The tests' end of the pipe, and their namespace.

    Attributes:
        space: The namespace in which the tests run.
        replaced: Whether a test had replaced Python's input or output while the tested code ran. That has no effect on
            the tested code, which has its own.
    """

    def __init__(self, channel: int, names: list[str]) -> None:
        wire = ExaminersWire()
        super().__init__(channel, wire, wire.perform)
        self.space: dict[str, Any] = {"__name__": "tests"}
        self._names = names
        self._globals: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._real = _replaceable()
        self.replaced = False
        connect(self)

    def define(self, job: dict[str, Any]) -> None:
        """Run the completion, and bind the names that the tests use to its values."""
        send(self._channel, {key: job[key] for key in ("code", "names", "limits")})
        answer = self.answer()
        if type(answer) is not dict:
            raise Settled(False, "the tested process spoke nonsense")
        self._globals = answer
        self._update()

    def ask(self, operation: str, /, *arguments: object, **named: object) -> Any:
        self.replaced |= _replaceable() != self._real
        try:
            return super().ask(operation, *arguments, **named)
        except _ENDING as end:
            raise Ended(*end.args) from None
        finally:
            self._update()

    def _update(self) -> None:
        """Rebind the names whose globals the completion has rebound."""
        for name in self._names:
            if name in self._globals and (name not in self._before or self._before[name] is not self._globals[name]):
                self.space[name] = self._before[name] = self._globals[name]


def _error(job: dict[str, Any], tests: _Tests) -> BaseException | None:
    try:
        tests.define(job)
    except Settled as error:
        return error
    except BaseException as error:
        return _Wrong(f"the code: {_described(error)}")
    missing = [name for name in job["names"] if name not in tests.space]
    if not job["tests"] or missing:
        return _Wrong(f"the code defines no {', '.join(missing)}" if missing else "there are no tests")
    try:
        for test in (job["setup"], *job["tests"]):
            program = compile(test, test, "exec", dont_inherit=True)
            exec(program, tests.space)  # noqa: S102  # tests come with the task, and this is the sandbox
    except BaseException as error:
        return error
    return None


def _missing_here(error: BaseException) -> bool:
    """Return whether this box raised the error, not the candidate: tests have no packages and no sockets here."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_here = trace is not None and trace.tb_frame.f_code is not Link.answer.__code__
    return raised_here and isinstance(error, ImportError | PermissionError)


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    # Python opens the files of modules without flags.
    if event == "open" and arguments[2]:
        _OPENED.append(arguments[0])


def _replaceable() -> tuple[int, ...]:
    """Return the identities of the objects that a test may replace to feed the tested code or to capture its output."""
    return tuple(map(id, (sys.stdin, sys.stdout, sys.stderr, builtins.input, builtins.print)))


class _Wrong(Exception):
    """The code is wrong before any test runs."""


def _line(error: BaseException, job: dict[str, Any]) -> str:
    """Return the line of the test that failed."""
    sources = {job["setup"], *job["tests"]}
    trace, line = error.__traceback__, ""
    while trace is not None:
        source = trace.tb_frame.f_code.co_filename
        if source in sources:
            lines = source.splitlines()
            line = lines[trace.tb_lineno - 1].strip() if trace.tb_lineno <= len(lines) else source
        trace = trace.tb_next
    return line


def _described(error: BaseException) -> str:
    try:
        # The text of an error may come from the candidate, and its conversion may fail.
        text = _shortened(str(error))
    except BaseException:
        text = ""
    return text if isinstance(error, _Wrong) else f"{type(error).__name__}: {text}".rstrip(": ")


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
