"""The grader of programs: all tests of the sample hold, in the sandbox."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from zfleet.errors import RewardError
from zfleet.rewards.sandbox.exam import Exam, Limits
from zfleet.rewards.sandbox.sandbox import Isolation, shared_sandbox
from zfleet.tasks.task import Grade, Sample, verdict

EXAM = "exam"
"""The field of a sample that holds its tests: JSON with ``names``, ``tests``, where needed ``setup`` and ``prefix``."""

_BLOCK = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


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
        exam = _exam(program_of(completion), sample)
        found = shared_sandbox(self.limits, self.isolation).examine(exam)
        return verdict(found.passed, exam.code, found.reason)


def program_of(completion: str) -> str:
    """The completion's code: its last fenced block that defines something, its last block, or all of it."""
    blocks = _BLOCK.findall(completion)
    defining = [block for block in blocks if re.search(r"^\s*(?:def|class|async def)\s", block, re.MULTILINE)]
    return str((defining or blocks or [completion])[-1])


def _joined(prefix: str, code: str, names: tuple[str, ...]) -> str:
    """A program whose beginning was the prompt; one that the completion begins anew keeps what comes before."""
    for name in names:
        beginning = re.compile(rf"^\s*(?:async\s+)?(?:def|class)\s+{re.escape(name)}\b", re.MULTILINE)
        if beginning.search(code):
            found = beginning.search(prefix)
            return (prefix[: found.start()] if found else "") + "\n" + code
    return prefix + code


def _exam(code: str, sample: Sample) -> Exam:
    try:
        stored = json.loads(sample.fields[EXAM])
        names = tuple(stored["names"])
        whole = _joined(stored.get("prefix", ""), code, names)
        return Exam(whole, names, tuple(stored["tests"]), stored.get("setup", ""))
    except (KeyError, ValueError, TypeError) as error:
        raise RewardError(
            f"sample {sample.id} has no tests to run: {error!r}", f"give it a field {EXAM!r}; see docs/tasks.md"
        ) from error
