"""Compare formulas in a child process, which is killed if a comparison takes too long."""

from __future__ import annotations

import atexit
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from zfleet.errors import RewardError
from zfleet.rewards.sandbox.inside.messages import READY, readable, receive, send

Kind = Literal["latex", "expr", "string"]
"""The kinds of formula that math-verify can look for."""

_START_SECONDS = 120.0
_LONGEST = 20_000
"""Only the last characters of a long answer are read: its end states the answer."""


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two formulas.

    Attributes:
        right: Whether the formulas are equal.
        answer: The formula in the answer as math-verify reads it; None if it found none.
        reason: Why the comparison failed; empty if it did not.
    """

    right: bool
    answer: str | None
    reason: str = ""


class MathProcess:
    """Compares one pair of formulas at a time, from any thread.

    A child process can be stopped in Ray's threaded and async actors too, where signals do not work.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def compare(
        self,
        gold: str,
        answer: str,
        seconds: float = 5.0,
        match: Sequence[Kind] = ("latex", "expr"),
        precision: int = 6,
        sets: bool = False,
    ) -> Comparison:
        r"""Ask math-verify whether an answer equals the reference.

        Args:
            gold: The reference.
            answer: A text with a formula: in ``\boxed{}``, in dollars, or a plain number or fraction.
            seconds: The longest time that the comparison may take; after that the answer counts as wrong.
            match: What to look for: ``latex``, ``expr`` (plain numbers and sums), ``string`` (a letter from A to D).
            precision: Decimals to which floats are compared; for small floats, significant digits.
            sets: Whether ``1 < x < 2`` equals ``(1, 2)``.

        Raises:
            RewardError: The child process does not start.
        """
        request = {
            "gold": gold,
            "answer": answer[-_LONGEST:],
            "seconds": seconds,
            "match": list(match),
            "precision": precision,
            "sets": sets,
        }
        with self._lock:
            child = self._child = self._child or _start()
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                send(child.stdin.fileno(), request)
                if readable(child.stdout.fileno(), seconds):
                    reply = receive(child.stdout.fileno())
                    return Comparison(bool(reply["right"]), reply["answer"], reply.get("error", ""))
                reason = f"comparing took longer than {seconds:g} s"
            except (OSError, EOFError):
                reason = "math-verify's process ended during the comparison"
            self._end()
            return Comparison(False, None, reason)

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._child is not None:
            with self._child as child:
                child.kill()
            self._child = None


@cache
def math_process() -> MathProcess:
    """Return the child process that all graders of this process share."""
    process = MathProcess()
    atexit.register(process.close)
    return process


def _start() -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-m", "zfleet.rewards.formulas.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    try:
        if readable(child.stdout.fileno(), _START_SECONDS) and receive(child.stdout.fileno()) == READY:
            return child
    except EOFError:
        pass
    child.kill()
    child.wait()
    raise RewardError(
        "math-verify's process does not start", f"`{sys.executable} -m zfleet.rewards.formulas.child` says why"
    )
