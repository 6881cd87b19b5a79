"""The program that runs the tests of a completion, which runs elsewhere: it decides, and tells the host alone."""

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
"""Characters of a failing test in a reason."""

_OPENED: list[object] = []
"""Files that the tests opened."""

_ENDING = (StopIteration, StopAsyncIteration, GeneratorExit)


def main() -> None:
    """Read a job from standard input, write the verdict to standard output; argument 1 is the candidate's channel."""
    verdicts = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    channel = int(sys.argv[1])
    # From then on the time of the candidate counts: how long boxes take to start must not.
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
        channel: To the candidate.
        job: An ``Exam``, and the ``limits`` of its boxes.

    Returns:
        ``passed`` and ``reason`` of a ``Verdict``.
    """
    tests = _Tests(channel, job["names"])
    error = _error(job, tests)
    # A test may have caught what settled the verdict, and gone on.
    error = Settled.all[0] if Settled.all else error
    if error is not None and _missing_here(error):
        error = Settled(None, f"the box has not what a test needs: {_told(error)}").with_traceback(error.__traceback__)
    if error is not None and (tests.replaced or _OPENED) and not isinstance(error, Settled):
        what = "replaces input or output" if tests.replaced else "opens a file"
        said = f"a test {what}, which the tested code has of its own: {_told(error)}"
        error = Settled(None, said).with_traceback(error.__traceback__)
    if error is None:
        return {"passed": True, "reason": f"all {len(job['tests'])} tests pass"}
    line = _shortened(_line(error, job))
    if isinstance(error, Settled):
        said = _shortened(str(error))
        told = said if error.passed is False else f"{line}: cannot tell: {said}"
    else:
        told = f"{line}: {_told(error)}" if line else _told(error)
    # No half characters: people and files take none.
    passed = error.passed if isinstance(error, Settled) else False
    return {"passed": passed, "reason": told.encode(errors="replace").decode()}


class _Tests(Link):
    """The tests' end of the pipe, and their namespace.

    Attributes:
        replaced: While the tested code ran, a test had other input or output in place of Python's: it has its own.
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
        """Run the completion, and give the tests what it calls the names that they use."""
        send(self._channel, {key: job[key] for key in ("code", "names", "limits")})
        found = self.answer()
        if type(found) is not dict:
            raise Settled(False, "the tested process spoke nonsense")
        self._globals = found
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
        """Bind globals that the completion bound anew."""
        for name in self._names:
            if name in self._globals and (name not in self._before or self._before[name] is not self._globals[name]):
                self.space[name] = self._before[name] = self._globals[name]


def _error(job: dict[str, Any], tests: _Tests) -> BaseException | None:
    try:
        tests.define(job)
    except Settled as error:
        return error
    except BaseException as error:
        return _Wrong(f"the code: {_told(error)}")
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
    """Whether this box, and not the candidate, raised it: there are no packages and no sockets for tests either."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_here = trace is not None and trace.tb_frame.f_code is not Link.answer.__code__
    return raised_here and isinstance(error, ImportError | PermissionError)


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    # Files of modules are opened without flags.
    if event == "open" and arguments[2]:
        _OPENED.append(arguments[0])


def _replaceable() -> tuple[int, ...]:
    """What a test may replace so as to speak with the tested code, or to hear it."""
    return tuple(map(id, (sys.stdin, sys.stdout, sys.stderr, builtins.input, builtins.print)))


class _Wrong(Exception):
    """What is wrong before any test runs."""


def _line(error: BaseException, job: dict[str, Any]) -> str:
    """The test's line that failed."""
    sources = {job["setup"], *job["tests"]}
    trace, found = error.__traceback__, ""
    while trace is not None:
        source = trace.tb_frame.f_code.co_filename
        if source in sources:
            lines = source.splitlines()
            found = lines[trace.tb_lineno - 1].strip() if trace.tb_lineno <= len(lines) else source
        trace = trace.tb_next
    return found


def _told(error: BaseException) -> str:
    try:
        # Of what a test shows when it fails, which may be the candidate's own words.
        said = _shortened(str(error))
    except BaseException:
        said = ""
    return said if isinstance(error, _Wrong) else f"{type(error).__name__}: {said}".rstrip(": ")


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
