"""The grader of programs: right if all tests of the sample pass, in the sandbox."""

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
"""The field of a sample with its tests: JSON with ``names`` and ``tests``, optionally ``setup`` and ``prefix``."""

_LONGEST = 2**17
"""The most characters of a completion: finding the program in a longer one could take minutes."""


@dataclass(frozen=True)
class Program:
    """Right if the completion's program passes every test of its sample.

    Attributes:
        limits: The limits of one verdict.
        isolation: ``bubblewrap``, or ``unsafe`` for no isolation.

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
            result = shared_sandbox(self.limits, self.isolation).examine(exam)
        except SandboxError as error:
            raise RewardError(
                f"sample {sample.id}: {error.message}",
                f"{error.remedy}; in training, reward.on_error: skip leaves such samples out",
            ) from error
        if result.passed is None:
            raise CannotTell(f"sample {sample.id}: cannot tell: {result.reason}")
        return verdict(result.passed, exam.code, result.reason)


def _exam(completion: str, sample: Sample) -> Exam:
    try:
        stored = read_exam(sample.fields)
    except ValueError as error:
        raise RewardError(f"sample {sample.id}: {error}", f"give it a field {EXAM!r}; see docs/tasks.md") from error
    names = tuple(stored["names"])
    whole = program_of(completion, names, stored.get("prefix", ""))
    return Exam(whole, names, tuple(stored["tests"]), stored.get("setup", ""))


def read_exam(fields: Mapping[str, str]) -> Mapping[str, Any]:
    """Read a row's tests.

    Raises:
        ValueError: The row has none, or they do not have the form that ``EXAM`` describes.
    """
    if EXAM not in fields:
        raise ValueError(f"it has no field {EXAM!r}")
    try:
        stored = json.loads(fields[EXAM])
    except RecursionError:
        stored = None
    lists = [stored.get(key) for key in ("names", "tests")] if isinstance(stored, dict) else []
    if not lists or not all(isinstance(texts, list) and texts and all(map(_is_text, texts)) for texts in lists):
        raise ValueError(f"its {EXAM} needs `names` and `tests`, each a list of strings")
    if not all(_is_text(stored.get(key, "")) for key in ("setup", "prefix")):
        raise ValueError(f"`setup` and `prefix` of its {EXAM} must be strings")
    exam: Mapping[str, Any] = stored
    return exam


def _is_text(value: object) -> bool:
    return isinstance(value, str)
