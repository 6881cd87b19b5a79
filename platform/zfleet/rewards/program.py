"""The grader of programs: all tests of the sample hold, in the sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zfleet.errors import RewardError
from zfleet.rewards.sandbox.exam import Exam, Limits
from zfleet.rewards.sandbox.sandbox import Isolation, shared_sandbox
from zfleet.tasks.task import Grade, Sample, verdict

EXAM = "exam"
"""The field of a sample that holds its tests: JSON with ``names``, ``tests``, where needed ``setup`` and ``prefix``."""

_BLOCK = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*(?P<kind>\w*)[^\n]*\n(?P<code>.*?)(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE
)
_PYTHON = ("", "python", "python3", "py")


@dataclass(frozen=True)
class Program:
    """Right if the completion's program passes every test of its sample.

    Attributes:
        limits: Of one verdict.
        isolation: ``bubblewrap``, or ``unsafe`` for none.
    """

    limits: Limits = field(default_factory=Limits)
    isolation: Isolation = "bubblewrap"

    def __call__(self, completion: str, sample: Sample) -> Grade:
        exam = _exam(completion, sample)
        found = shared_sandbox(self.limits, self.isolation).examine(exam)
        return verdict(found.passed, exam.code, found.reason)


def program_of(completion: str, names: tuple[str, ...] = ()) -> str:
    """The completion's code: its last block of Python that defines one of the names, else its last, else all of it."""
    blocks = [found["code"] for found in _BLOCK.finditer(completion) if found["kind"].lower() in _PYTHON]
    defining = [block for block in blocks if any(_beginning(name).search(block) for name in names)]
    return str((defining or blocks or [completion])[-1])


def _joined(prefix: str, code: str, names: tuple[str, ...]) -> str:
    """A program whose beginning was the prompt; one that the completion begins anew keeps what comes before."""
    for name in names:
        if _beginning(name).search(code):
            found = _beginning(name).search(prefix)
            return (prefix[: found.start()] if found else "") + "\n" + code
    return prefix + code


def _beginning(name: str) -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*(?:async\s+)?(?:def|class)\s+{re.escape(name)}\b", re.MULTILINE)


def _exam(completion: str, sample: Sample) -> Exam:
    try:
        stored = read_exam(sample.fields)
    except ValueError as error:
        raise RewardError(f"sample {sample.id}: {error}", f"give it a field {EXAM!r}; see docs/tasks.md") from error
    names = tuple(stored["names"])
    whole = _joined(stored.get("prefix", ""), program_of(completion, names), names)
    return Exam(whole, names, tuple(stored["tests"]), stored.get("setup", ""))


def read_exam(fields: Mapping[str, str]) -> Mapping[str, Any]:
    """A row's tests.

    Raises:
        ValueError: It has none, or not as ``EXAM`` says.
    """
    if EXAM not in fields:
        raise ValueError(f"it has no field {EXAM!r}")
    try:
        stored = json.loads(fields[EXAM])
    except RecursionError:
        stored = None
    lists = [stored.get(key) for key in ("names", "tests")] if isinstance(stored, dict) else []
    if not lists or not all(isinstance(one, list) and one and all(isinstance(i, str) for i in one) for one in lists):
        raise ValueError(f"its {EXAM} needs `names` and `tests`, each a list of texts")
    if not all(isinstance(stored.get(key, ""), str) for key in ("setup", "prefix")):
        raise ValueError(f"`setup` and `prefix` of its {EXAM} are texts")
    found: Mapping[str, Any] = stored
    return found
