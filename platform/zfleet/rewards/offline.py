"""Grading completions that lie in a file, and comparing the verdicts with those that the file expects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from zfleet.config.explain import explain
from zfleet.errors import CannotTell, RewardError, TaskError
from zfleet.rewards.comparing import Comparing
from zfleet.rewards.formulas.process import Kind, math_process
from zfleet.rewards.numbers.extract import after_hashes, last_boxed, last_integer
from zfleet.rewards.sandbox.sandbox import AT_ONCE
from zfleet.tasks.rows import Row
from zfleet.tasks.task import Grade, Reward, Sample, Ungraded, verdict


@dataclass(frozen=True)
class Graded:
    """A row and what was said of it.

    Attributes:
        id: Of the row.
        verdict: Right or wrong; where the row expects an extracted answer, that answer. None where it has no grade.
        expected: What the row expects; None where it expects nothing.
        expects: Whether it expects anything: an answer that is None counts.
        grade: The grader's own words, or why it gave no verdict.
        policy: Whose convention the row follows.
        contested: Conventions differ on it.
    """

    id: str
    verdict: bool | str | int | None
    expected: bool | str | int | None
    expects: bool
    grade: Grade | Ungraded
    policy: str
    contested: bool

    @property
    def agrees(self) -> bool:
        """The verdict is the expected one."""
        return isinstance(self.grade, Grade) and self.verdict == self.expected


class OfflineGrader:
    """Grades rows by what their ``kind`` says, else by a task's reward."""

    def __init__(self, reward: Reward, problems: Mapping[str, Sample]) -> None:
        """Prepare.

        Args:
            reward: For rows that are no extraction and no comparison.
            problems: By task id, what programs are tested with.
        """
        self._reward = reward
        self._problems = problems

    def grade(self, rows: Iterable[Row]) -> list[Graded]:
        """Every row, in their order; a few at once, as sandboxes and servers let wait.

        A row whose grader fails, or cannot tell, has no grade; the others do.

        Raises:
            TaskError: A row lacks what its kind needs, or holds something else; names file and line.
        """
        with ThreadPoolExecutor(AT_ONCE, "zfleet-grade") as threads:
            return list(threads.map(self._row, rows))

    def _row(self, row: Row) -> Graded:
        data, kind = row.data, str(row.data.get("kind", ""))
        try:
            if kind in _EXTRACTORS:
                found = _EXTRACTORS[kind](str(data["text"]))
                said = None if found is None else str(found)
                grade = verdict(found == data.get("expected"), said, f"{kind} finds {found!r}")
                return _graded(row, grade, found)
            grade = self._grade(row, kind)
        except RewardError as error:
            return _graded(row, Ungraded(error.message, isinstance(error, CannotTell)), None)
        except KeyError as error:
            raise TaskError(
                f"{row.where} lacks {error}, which rows of {f'kind {kind!r}' if kind else 'no kind'} need",
                "add it; programs need `--problems FILE` with their tests",
            ) from error
        except ValueError as error:
            raise TaskError(
                f"{row.where} cannot be graded: {error}", "docs/tasks.md says what the rows of each kind hold"
            ) from error
        return _graded(row, grade, grade.right)

    def _grade(self, row: Row, kind: str) -> Grade:
        data = row.data
        if kind == "math_equiv":
            return _equivalence(data)
        if "task_id" in data:
            return self._reward(str(data["completion"]), self._problem(row))
        completion, reference = (
            (data["completion"], data["answer"]) if "completion" in data else (data["answer"], data["gold"])
        )
        if isinstance(self._reward, Comparing):
            self._reward.check(str(reference))
        return self._reward(str(completion), Sample(_identity(row), "", str(reference)))

    def _problem(self, row: Row) -> Sample:
        name = str(row.data["task_id"])
        if name not in self._problems:
            raise TaskError(
                f"{row.where}: no problem is called {name!r}", "give the file of its problems with --problems"
            )
        return self._problems[name]


def summary(graded: Sequence[Graded]) -> dict[str, Any]:
    """Counts, agreement where rows expect something, every disagreement with its reason, and rows without a grade."""
    ungraded = [(one.id, one.grade) for one in graded if isinstance(one.grade, Ungraded)]
    expecting = [one for one in graded if one.expects and isinstance(one.grade, Grade)]
    counted = [one for one in expecting if not one.contested]
    policies = sorted({one.policy for one in counted if one.policy})
    return {
        "n": len(graded),
        "right": sum(isinstance(one.grade, Grade) and one.grade.right for one in graded),
        "cannot_tell": sum(grade.undecided for _, grade in ungraded),
        "failed": sum(not grade.undecided for _, grade in ungraded),
        "agreement": _agreement(counted),
        "contested": len(expecting) - len(counted),
        "policies": {
            policy: {"n": len(own), "agreement": _agreement(own)}
            for policy in policies
            for own in [[one for one in counted if one.policy == policy]]
        },
        "disagreements": [
            {
                "id": one.id,
                "expected": one.expected,
                "verdict": one.verdict,
                "extracted": grade.extracted,
                "reason": grade.reason,
                "policy": one.policy,
                "contested": one.contested,
            }
            for one in expecting
            if not one.agrees
            for grade in [one.grade]
            if isinstance(grade, Grade)
        ],
        "ungraded": [
            {"id": name, "verdict": "cannot tell" if grade.undecided else "failed", "reason": grade.reason}
            for name, grade in ungraded
        ],
    }


_EXTRACTORS: Mapping[str, Callable[[str], str | int | None]] = {
    "extract_final_int": last_integer,
    "extract_boxed": last_boxed,
    "extract_gsm8k_final_answer": after_hashes,
}


class _Params(BaseModel):
    """How a row of kind ``math_equiv`` wants its formulas compared: see ``MathProcess.compare``."""

    match_types: tuple[Kind, ...] = ("latex", "expr")
    precision: int = Field(6, ge=0, le=15)
    allow_set_relation_comp: bool = False


def _equivalence(data: Mapping[str, Any]) -> Grade:
    if data["answer"] is None:
        return verdict(False, None, "there is no answer")
    try:
        params = _Params.model_validate(data.get("params", {}))
    except ValidationError as error:
        raise ValueError("; ".join(explain(error, _Params, ("params",)))) from error
    found = math_process().compare(
        str(data["gold"]),
        str(data["answer"]),
        match=params.match_types,
        precision=params.precision,
        sets=params.allow_set_relation_comp,
    )
    reason = found.reason or (
        "no formula in it" if found.answer is None else f"math-verify reads {found.answer} beside {data['gold']}"
    )
    return verdict(found.right, found.answer, reason)


def _graded(row: Row, grade: Grade | Ungraded, said: bool | str | int | None) -> Graded:
    data = row.data
    return Graded(
        _identity(row),
        said,
        data.get("expected"),
        "expected" in data,
        grade,
        str(data.get("policy", "")),
        bool(data.get("contested", False)),
    )


def _identity(row: Row) -> str:
    return str(row.data.get("id", row.data.get("task_id", row.where)))


def _agreement(graded: Sequence[Graded]) -> float | None:
    return sum(one.agrees for one in graded) / len(graded) if graded else None
