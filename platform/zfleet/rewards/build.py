"""From a reward in a spec to the function that grades."""

from __future__ import annotations

import re
from collections.abc import Mapping

from zfleet.config.task_specs import GraderSpec, RewardSpec
from zfleet.errors import SpecError, TaskError
from zfleet.rewards.choice import Choice
from zfleet.rewards.comparing import Comparing
from zfleet.rewards.formulas.answer import MathAnswer
from zfleet.rewards.length import Length
from zfleet.rewards.numbers.number import Number
from zfleet.rewards.programs.program import Program, read_exam
from zfleet.rewards.python import PythonReward, resolve
from zfleet.rewards.sandbox.exam import Limits
from zfleet.rewards.soft import Soft
from zfleet.rewards.text import Boxed, Contains, Exact, Regex
from zfleet.rewards.weighted import Part, Weighted
from zfleet.tasks.task import Reward

_COMPARING: Mapping[str, type[Comparing]] = {
    "exact": Exact,
    "contains": Contains,
    "choice": Choice,
    "number": Number,
    "boxed": Boxed,
    "math": MathAnswer,
    "soft": Soft,
}


def build_reward(spec: RewardSpec) -> Reward:
    """The reward a spec names, checked here so that no worker finds out first.

    Raises:
        SpecError: A pattern that does not compile, a function that cannot be imported, a `value` that no answer meets.
    """
    if spec.kind == "sum":
        return Weighted(tuple(Part(name, part.weight, _grader(part)) for name, part in spec.parts.items()))
    return _grader(spec)


def needs_answer(spec: RewardSpec) -> bool:
    """Whether the reward compares with the row's answer: without one it would call any answer right, or none."""
    return any(one.kind in _COMPARING and not one.value for one in (spec, *spec.parts.values()))


def check_row(spec: RewardSpec, answer: str, fields: Mapping[str, str], where: str) -> None:
    """Refuse a row that the reward could not grade.

    Args:
        answer: The row's answer.
        fields: All that the row holds.
        where: File and line.

    Raises:
        TaskError: Says what is wrong with the row.
    """
    for one in (spec, *spec.parts.values()):
        try:
            if one.kind in _COMPARING and not one.value:
                _COMPARING[one.kind]().check(answer)
            if one.kind == "program":
                read_exam(fields)
        except ValueError as error:
            raise TaskError(
                f"{where} cannot be graded by reward `{one.kind}`: {error}",
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
    grader = _COMPARING[spec.kind](spec.value)
    if spec.value:
        _check_value(grader)
    return grader


def _check_value(grader: Comparing) -> None:
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
            f"reward.value is {pattern!r}, which is no regular expression: {error}",
            "mend the pattern; a literal \\ . ( [ * + ? needs a backslash before it",
        ) from error
