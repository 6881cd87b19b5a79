"""The program that runs the tests of a completion, which runs elsewhere: it decides, and tells the host alone."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .lockdown import lock_down
from .messages import receive, send
from .wire import pack, unpack

_SHOWN = 200
"""Characters of a failing test in a reason."""


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
    send(verdicts, _examine(job, _Candidate(channel)))


class _Broken(BaseException):
    """The candidate's process ended, or spoke nonsense. No test can catch it."""


class _Candidate:
    """The other process, and what lies there."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._objects: dict[int, _Remote] = {}

    def define(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run the completion; what it calls the names that the tests use."""
        reply = self._exchange({key: job[key] for key in ("code", "names", "limits")})
        found = self._value(reply)
        if not isinstance(found, dict):
            raise _Broken("the tested process spoke nonsense")
        return {name: value for name, value in found.items() if name in job["names"]}

    def ask(self, operation: str, /, *arguments: Any, **named: Any) -> Any:
        """Have an operation performed there; lists and such that it changed are changed here too."""
        values = [*arguments, *named.values()]
        packed = [pack(value, _number) for value in values]
        count = len(arguments)
        reply = self._exchange(
            {
                "operation": operation,
                "arguments": packed[:count],
                "named": dict(zip(named, packed[count:], strict=True)),
            }
        )
        try:
            for place, now in dict(reply.get("changed", {})).items():
                _overwrite(values[int(place)], unpack(now, self._object))
        except (ValueError, TypeError, IndexError, RecursionError) as error:
            raise _Broken("the tested process spoke nonsense") from error
        return self._value(reply)

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            send(self._channel, message)
            return receive(self._channel)
        except (EOFError, OSError) as error:
            raise _Broken("the tested process ended") from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise _Broken(f"the tested process gave no value that can be read: {error}") from error

    def _value(self, reply: dict[str, Any]) -> Any:
        if "raised" in reply:
            raise _error(reply)
        try:
            return unpack(reply["value"], self._object)
        except (KeyError, ValueError, RecursionError, MemoryError) as error:
            raise _Broken(f"the tested process gave no value that can be read: {error}") from error

    def _object(self, number: int) -> _Remote:
        return self._objects.setdefault(number, _Remote(self, number))


class _Remote:
    """An object of the candidate's. It equals nothing but itself: what it says of itself is no proof."""

    __slots__ = ("_candidate", "_number")

    def __init__(self, candidate: _Candidate, number: int) -> None:
        object.__setattr__(self, "_candidate", candidate)
        object.__setattr__(self, "_number", number)

    def __call__(self, /, *arguments: Any, **named: Any) -> Any:
        return self._candidate.ask("call", self, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return self._candidate.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._candidate.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._candidate.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._candidate.ask("setitem", self, key, value)

    def __contains__(self, value: Any) -> bool:
        # Not asked there: whoever is told what is looked for can say that it is in.
        return any(one is value or one == value for one in self)

    def __iter__(self) -> Iterator[Any]:
        found = self._candidate.ask("iter", self)
        while True:
            try:
                value = self._candidate.ask("next", found)
            except _Ended:
                return
            yield value

    def __next__(self) -> Any:
        try:
            return self._candidate.ask("next", self)
        except _Ended as end:
            raise StopIteration from end

    def __len__(self) -> int:
        return int(self._candidate.ask("len", self))

    def __bool__(self) -> bool:
        return bool(self._candidate.ask("bool", self))

    def __str__(self) -> str:
        return str(self._candidate.ask("str", self))

    def __repr__(self) -> str:
        return str(self._candidate.ask("repr", self))


class _Ended(Exception):
    """A StopIteration of the candidate's. As such it would end a test's own loop, and with it the test."""


def _examine(job: dict[str, Any], candidate: _Candidate) -> dict[str, Any]:
    try:
        space: dict[str, Any] = {"__name__": "tests"}
        space |= candidate.define(job)
    except BaseException as error:
        return _failed(f"the code: {_told(error)}")
    if not job["tests"]:
        return _failed("there are no tests")
    missing = [name for name in job["names"] if name not in space]
    if missing:
        return _failed(f"the code defines no {', '.join(missing)}")
    try:
        _run(job["setup"], space)
        for test in job["tests"]:
            _run(test, space)
    except BaseException as error:
        where = "" if isinstance(error, _Broken) else f"{_shortened(_line(error, job))}: "
        return _failed(where + _told(error))
    return {"passed": True, "reason": f"all {len(job['tests'])} tests pass"}


def _run(source: str, space: dict[str, Any]) -> None:
    program = compile(source, source, "exec", dont_inherit=True)
    exec(program, space)  # noqa: S102  # tests come with the task, and this is the sandbox


def _number(value: object) -> int:
    if isinstance(value, _Remote):
        return int(object.__getattribute__(value, "_number"))
    raise TypeError(f"a test passes a {type(value).__name__} to the tested code: it takes plain values only")


def _overwrite(value: Any, now: Any) -> None:
    if isinstance(value, list | bytearray):
        value[:] = now
    elif isinstance(value, dict | set):
        value.clear()
        value.update(now)


def _error(reply: dict[str, Any]) -> Exception:
    """The candidate's exception: of the first built-in class among its own, so that tests can expect it."""
    message = str(reply.get("message", ""))
    for name in reply["raised"]:
        if name == "StopIteration":
            return _Ended(message)
        kind: Callable[[str], Exception] | None = getattr(builtins, str(name), None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(message)
            except TypeError:  # of Unicode errors, which take more
                return ValueError(message)
    return RuntimeError(f"{reply['raised'][0]}: {message}")


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
    return said if isinstance(error, _Broken) else f"{type(error).__name__.lstrip('_')}: {said}".rstrip(": ")


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _failed(reason: str) -> dict[str, Any]:
    # No half characters: people and files take none.
    return {"passed": False, "reason": reason.encode(errors="replace").decode()}
