"""Build the grader that a spec names, and check the spec and the task's rows against it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from zfleet.config.task_specs import GraderSpec, RewardSpec
from zfleet.errors import SpecError, TaskError
from zfleet.rewards.choice import Choice
from zfleet.rewards.formulas.grader import MathAnswer
from zfleet.rewards.numbers.grader import Number
from zfleet.rewards.programs.grader import Program, read_exam
from zfleet.rewards.python import PythonReward, resolve
from zfleet.rewards.sandbox.exam import Limits
from zfleet.rewards.soft import Soft
from zfleet.rewards.text import Boxed, Contains, Exact, Length, ReferenceGrader, Regex
from zfleet.rewards.weighted import Part, Weighted
from zfleet.tasks.task import Reward

_REFERENCE_GRADERS: Mapping[str, type[ReferenceGrader]] = {
    "exact": Exact,
    "contains": Contains,
    "choice": Choice,
    "number": Number,
    "boxed": Boxed,
    "math": MathAnswer,
    "soft": Soft,
}


def build_reward(spec: RewardSpec) -> Reward:
    """Build the reward that a spec names. It is checked here, before any worker starts.

    Raises:
        SpecError: A pattern does not compile, a function cannot be imported, or no answer can match `value`.
    """
    if spec.kind == "sum":
        return Weighted(tuple(Part(name, part.weight, _grader(part)) for name, part in spec.parts.items()))
    return _grader(spec)


def needs_answer(spec: RewardSpec) -> bool:
    """Return whether the reward compares with the row's answer, so that a row without one cannot be graded."""
    return any(grader.kind in _REFERENCE_GRADERS and not grader.value for grader in (spec, *spec.parts.values()))


def check_row(spec: RewardSpec, answer: str, fields: Mapping[str, str], where: str) -> None:
    """Refuse a row that the reward could not grade.

    Args:
        answer: The row's answer.
        fields: All fields of the row.
        where: File and line.

    Raises:
        TaskError: Says what is wrong with the row.
    """
    for grader in (spec, *spec.parts.values()):
        try:
            if grader.kind in _REFERENCE_GRADERS and not grader.value:
                _REFERENCE_GRADERS[grader.kind]().check(answer)
            if grader.kind == "program":
                read_exam(fields)
        except ValueError as error:
            raise TaskError(
                f"{where} cannot be graded by reward `{grader.kind}`: {error}",
                "docs/tasks.md says what the rows of each reward hold",
            ) from error


def _grader(spec: GraderSpec) -> Reward:
    match spec.kind:
        case "math":
            return MathAnswer(spec.value, spec.seconds)
        case "regex":
            _check_pattern(spec.value)
            return Regex(spec.value)
        case "length":
            return Length(int(spec.value))
        case "program":
            return Program(Limits(spec.seconds), spec.sandbox)
        case "python":
            resolve(spec.value)
            return PythonReward(spec.value)
    grader = _REFERENCE_GRADERS[spec.kind](spec.value)
    if spec.value:
        _check_value(grader)
    return grader


def _check_value(grader: ReferenceGrader) -> None:
    try:
        grader.check(grader.value)
    except ValueError as error:
        raise SpecError(f"reward.value: {error}", "docs/tasks.md says what each reward compares with") from error


def _check_pattern(pattern: str) -> None:
    if not pattern:
        raise SpecError("reward.value is empty: it would match every completion", "give the pattern to look for")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise SpecError(
            f"reward.value is {pattern!r}, which is not a regular expression: {error}",
            "correct the pattern; a literal \\ . ( [ * + ? needs a backslash before it",
        ) from error
