"""Grade the completions in a file, and compare the verdicts with those that the file expects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from zfleet.config.explain import explain
from zfleet.errors import CannotTell, RewardError, TaskError
from zfleet.rewards.formulas.process import Kind, math_process
from zfleet.rewards.numbers.extract import after_hashes, last_boxed, last_integer
from zfleet.rewards.sandbox.sandbox import AT_ONCE
from zfleet.rewards.text import ReferenceGrader
from zfleet.tasks.rows import Row
from zfleet.tasks.task import Grade, Reward, Sample, Ungraded, verdict


@dataclass(frozen=True)
class Graded:
    """A row of the file and its grade.

    Attributes:
        id: The row's id.
        verdict: Right or wrong; the extracted answer if the row expects one; None if the row has no grade.
        expected: The verdict that the row expects; None if it expects none.
        expects: Whether the row expects a verdict. It may expect None, an answer that cannot be extracted.
        grade: The grader's result, or why it gave none.
        policy: The name of the convention that the row follows.
        contested: Whether conventions differ on this row.
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
        """Whether the verdict is the expected one."""
        return isinstance(self.grade, Grade) and self.verdict == self.expected


class OfflineGrader:
    """Grades rows by their ``kind``, and rows without a kind by a task's reward."""

    def __init__(self, reward: Reward, problems: Mapping[str, Sample]) -> None:
        """Prepare to grade.

        Args:
            reward: Grades the rows that are neither extractions nor comparisons of formulas.
            problems: The samples with the tests of programs, by task id.
        """
        self._reward = reward
        self._problems = problems

    def grade(self, rows: Iterable[Row]) -> list[Graded]:
        """Grade every row, in order. Several rows are graded at once, because sandboxes and servers take time.

        A row is ``Ungraded`` if its grader fails or cannot tell.

        Raises:
            TaskError: A row lacks a field that its kind needs, or has an unusable value; names file and line.
        """
        with ThreadPoolExecutor(AT_ONCE, "zfleet-grade") as threads:
            return list(threads.map(self._row, rows))

    def _row(self, row: Row) -> Graded:
        data, kind = row.data, str(row.data.get("kind", ""))
        try:
            if kind in _EXTRACTORS:
                answer = _EXTRACTORS[kind](str(data["text"]))
                extracted = None if answer is None else str(answer)
                grade = verdict(answer == data.get("expected"), extracted, f"{kind} finds {answer!r}")
                return _graded(row, grade, answer)
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
        if isinstance(self._reward, ReferenceGrader):
            self._reward.check(str(reference))
        # A grader may read more of the row than its answer, such as the options.
        fields = {key: value for key, value in data.items() if isinstance(value, str)}
        return self._reward(str(completion), Sample(_identity(row), "", str(reference), fields))

    def _problem(self, row: Row) -> Sample:
        name = str(row.data["task_id"])
        if name not in self._problems:
            raise TaskError(
                f"{row.where}: no problem is called {name!r}", "give the file of its problems with --problems"
            )
        return self._problems[name]


def summary(graded: Sequence[Graded]) -> dict[str, Any]:
    """Summarise graded rows as JSON: counts, agreement with the expected verdicts, and disagreements with reasons."""
    ungraded = [(row.id, row.grade) for row in graded if isinstance(row.grade, Ungraded)]
    expecting = [row for row in graded if row.expects and isinstance(row.grade, Grade)]
    counted = [row for row in expecting if not row.contested]
    policies = sorted({row.policy for row in counted if row.policy})
    return {
        "n": len(graded),
        "right": sum(isinstance(row.grade, Grade) and row.grade.right for row in graded),
        "cannot_tell": sum(grade.undecided for _, grade in ungraded),
        "failed": sum(not grade.undecided for _, grade in ungraded),
        "agreement": _agreement(counted),
        "contested": len(expecting) - len(counted),
        "policies": {
            policy: {"n": len(own), "agreement": _agreement(own)}
            for policy in policies
            for own in [[row for row in counted if row.policy == policy]]
        },
        "disagreements": [
            {
                "id": row.id,
                "expected": row.expected,
                "verdict": row.verdict,
                "extracted": grade.extracted,
                "reason": grade.reason,
                "policy": row.policy,
                "contested": row.contested,
            }
            for row in expecting
            if not row.agrees
            for grade in [row.grade]
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
    """How to compare the formulas of a row of kind ``math_equiv``: see ``MathProcess.compare``."""

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
    comparison = math_process().compare(
        str(data["gold"]),
        str(data["answer"]),
        match=params.match_types,
        precision=params.precision,
        sets=params.allow_set_relation_comp,
    )
    reason = comparison.reason or (
        "no formula in it"
        if comparison.answer is None
        else f"math-verify compares {comparison.answer} with {data['gold']}"
    )
    return verdict(comparison.right, comparison.answer, reason)


def _graded(row: Row, grade: Grade | Ungraded, outcome: bool | str | int | None) -> Graded:
    data = row.data
    return Graded(
        _identity(row),
        outcome,
        data.get("expected"),
        "expected" in data,
        grade,
        str(data.get("policy", "")),
        bool(data.get("contested", False)),
    )


def _identity(row: Row) -> str:
    return str(row.data.get("id", row.data.get("task_id", row.where)))


def _agreement(graded: Sequence[Graded]) -> float | None:
    return sum(row.agrees for row in graded) / len(graded) if graded else None
