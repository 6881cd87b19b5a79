"""The grader of programs: all tests of the sample hold, in the sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zfleet.errors import CannotTell, RewardError, SandboxError
from zfleet.rewards.programs.program_text import program_of
from zfleet.rewards.sandbox.exam import Exam, Limits
from zfleet.rewards.sandbox.sandbox import Isolation, shared_sandbox
from zfleet.tasks.task import Grade, Sample, verdict

EXAM = "exam"
"""The field of a sample that holds its tests: JSON with ``names``, ``tests``, where needed ``setup`` and ``prefix``."""

_LONGEST = 2**17
"""Characters of a completion: looking for a program in more could take minutes."""


@dataclass(frozen=True)
class Program:
    """Right if the completion's program passes every test of its sample.

    Attributes:
        limits: Of one verdict.
        isolation: ``bubblewrap``, or ``unsafe`` for none.

    Raises:
        RewardError: The sandbox gave no verdict, or the sample has no tests.
        CannotTell: The sandbox cannot judge this program by these tests.
    """

    limits: Limits = field(default_factory=Limits)
    isolation: Isolation = "bubblewrap"

    def __call__(self, completion: str, sample: Sample) -> Grade:
        if len(completion) > _LONGEST:
            return verdict(False, None, f"it has {len(completion):,} characters: a program may have {_LONGEST:,}")
        exam = _exam(completion, sample)
        try:
            found = shared_sandbox(self.limits, self.isolation).examine(exam)
        except SandboxError as error:
            raise RewardError(
                f"sample {sample.id}: {error.message}",
                f"{error.remedy}; in training, reward.on_error: skip leaves such samples out",
            ) from error
        if found.passed is None:
            raise CannotTell(f"sample {sample.id}: cannot tell: {found.reason}")
        return verdict(found.passed, exam.code, found.reason)


def _exam(completion: str, sample: Sample) -> Exam:
    try:
        stored = read_exam(sample.fields)
    except ValueError as error:
        raise RewardError(f"sample {sample.id}: {error}", f"give it a field {EXAM!r}; see docs/tasks.md") from error
    names = tuple(stored["names"])
    whole = program_of(completion, names, stored.get("prefix", ""))
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
