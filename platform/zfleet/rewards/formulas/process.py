"""Comparing formulas in a process of its own, which is ended when it takes too long."""

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
"""What math-verify looks for."""

_START_SECONDS = 120.0
_LONGEST = 20_000
"""Characters of an answer: what comes before its last ones is left out, as its end states the answer."""


@dataclass(frozen=True)
class Comparison:
    """Whether two formulas are the same.

    Attributes:
        right: They are.
        answer: What the answer was read as; None where no formula was found.
        reason: Why there is no answer, where that is not plain.
    """

    right: bool
    answer: str | None
    reason: str = ""


class MathProcess:
    """Compares, one pair at a time, from any thread; works in Ray's threaded and async actors, as signals do not."""

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
            answer: A text that holds a formula: in ``\boxed{}``, in dollars, or a plain number or fraction.
            seconds: The longest that it may take; later it counts as wrong.
            match: What to look for: ``latex``, ``expr`` (plain numbers and sums), ``string`` (a letter from A to D).
            precision: Decimals to which floats are compared; of small ones that many significant digits.
            sets: Whether ``1 < x < 2`` equals ``(1, 2)``.

        Raises:
            RewardError: The process does not start.
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
                reason = "comparing it ended math-verify's process"
            self._end()
            return Comparison(False, None, reason)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._child is not None:
            with self._child as child:
                child.kill()
            self._child = None


@cache
def math_process() -> MathProcess:
    """The one of this process."""
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
