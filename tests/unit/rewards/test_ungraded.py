"""Programs without a verdict because the sandbox fails or cannot tell: they are not wrong, and they are counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zfleet.engine.blocking import SyncEngine
from zfleet.errors import CannotTell, RewardError, SandboxError
from zfleet.evaluate.graded import evaluate
from zfleet.models.svf_model import SvfModel
from zfleet.rewards.grading import grade_all
from zfleet.rewards.programs.grader import Program
from zfleet.rewards.sandbox.exam import Exam, Verdict
from zfleet.rewards.text import Length
from zfleet.rewards.weighted import Part, Weighted
from zfleet.tasks.task import Grade, Sample, Ungraded
from zfleet.testing.solo import SPEC, solo, vowels_task
from zfleet_cli.main import app

SAMPLE = Sample("s1", "", fields={"exam": '{"names": ["one"], "tests": ["assert one() == 1"]}'})
RIGHT, BROKEN, STRANGE = (f"def one():\n    return {value}" for value in ("1", "'broken'", "'strange'"))
ANSWERS = [(SAMPLE, text) for text in (RIGHT, BROKEN, STRANGE)]


class _Stub:
    """A sandbox that fails on one program and cannot judge another."""

    def examine(self, exam: Exam) -> Verdict:
        if "broken" in exam.code:
            raise SandboxError("the sandbox ended without a verdict", "free processes")
        return Verdict(None, "`+` of an object") if "strange" in exam.code else Verdict(True, "all tests pass")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("zfleet.rewards.programs.grader", "zfleet.rewards.grading"):
        monkeypatch.setattr(f"{module}.shared_sandbox", lambda *_: _Stub())


@pytest.mark.usefixtures("stub")
def test_a_sandbox_that_fails_fails_its_sample_as_the_spec_says(caplog: pytest.LogCaptureFixture) -> None:
    right, broken, strange = grade_all(Program(), ANSWERS, skip_failed=True)
    assert isinstance(right, Grade)
    assert right.right
    assert broken == Ungraded("sample s1: the sandbox ended without a verdict")
    assert strange == Ungraded("sample s1: cannot tell: `+` of an object", undecided=True)
    assert "ended without a verdict" in caplog.text
    assert "cannot tell" in caplog.text
    with pytest.raises(RewardError, match="sample s1: the sandbox ended without a verdict") as caught:
        grade_all(Program(), ANSWERS)
    assert "free processes" in caught.value.remedy
    assert "on_error: skip" in caught.value.remedy


@pytest.mark.usefixtures("stub")
def test_an_answer_that_nobody_can_judge_stops_nothing() -> None:
    answers = [(SAMPLE, STRANGE), (SAMPLE, RIGHT)]
    strange, right = grade_all(Program(), answers)
    assert strange == Ungraded("sample s1: cannot tell: `+` of an object", undecided=True)
    assert isinstance(right, Grade)
    # The remaining parts of a sum would be a different reward, so the sum is ungraded too.
    both = Weighted((Part("passes", 1.0, Program()), Part("short", 1.0, Length(10))))
    assert isinstance(grade_all(both, answers)[0], Ungraded)


def test_an_answer_that_nobody_can_judge_is_counted_and_recorded_but_not_learned_from(
    tiny_model: SvfModel, engine: SyncEngine
) -> None:
    def reward(completion: str, sample: Sample) -> Grade:
        if sample.id == "s0":
            raise CannotTell("sample s0: cannot tell: an object")
        return Grade(1.0)

    task = vowels_task(reward)
    learner = solo(tiny_model, engine, task, SPEC)
    samples = learner.learner.sample()
    (report,) = learner.learner.learn(samples)
    recorded = samples.batches[0].rollouts
    assert (report.samples, report.skipped, report.used, report.reward) == (7 * 4, 4, 7 * 4, 1.0)
    undecided = Ungraded("sample s0: cannot tell: an object", True)
    assert {rollout.sample.id for rollout in recorded if rollout.grade == undecided} == {"s0"}
    evaluation = evaluate(engine, tiny_model.base.tokenizer, task, task.train)
    assert evaluation.n == len(task.train) - 1
    assert evaluation.graded.count(None) == 1


@pytest.fixture
def grade(tmp_path: Path) -> Callable[..., Any]:
    problem = {"prompt": "def one():\n", "entry_point": "one", "test": "def check(c):\n    assert c() == 1"}

    def run(rows: list[Mapping[str, Any]], *options: str, problems: tuple[Mapping[str, Any], ...] = ({},)) -> Any:
        files: dict[str, list[Mapping[str, Any]]] = {
            "rows": rows,
            "problems": [{"task_id": "t/0", **problem, **overrides} for overrides in problems],
        }
        for name, lines in files.items():
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        names = ["--file", str(tmp_path / "rows.jsonl"), "--problems", str(tmp_path / "problems.jsonl")]
        return CliRunner().invoke(app, ["grade", "--task", "humaneval", *names, *options])

    return run


def _row(completion: str) -> dict[str, Any]:
    return {"task_id": "t/0", "completion": completion, "expected": True}


@pytest.mark.usefixtures("stub")
def test_grading_goes_on_behind_a_row_without_a_verdict(grade: Callable[..., Any]) -> None:
    rows = [{**_row(text), "id": name} for name, text in (("a", STRANGE), ("b", BROKEN), ("c", RIGHT))]
    result = grade(rows, "--json")
    summary = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [summary[key] for key in ("n", "right", "cannot_tell", "failed", "agreement")] == [3, 1, 1, 1, 1.0]
    assert [(row["id"], row["verdict"]) for row in summary["ungraded"]] == [("a", "cannot tell"), ("b", "failed")]
    assert "`+` of an object" in summary["ungraded"][0]["reason"]
    assert summary["disagreements"] == []
    output = grade(rows).stdout
    assert "3 rows, 1 right" in output
    assert "1 that nobody can judge, 1 that failed" in output
    assert "cannot tell" in output
    # "Cannot tell" is a result, not a failure.
    assert grade([rows[0], rows[2]]).exit_code == 0


def test_grading_needs_a_sandbox_before_it_begins(grade: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise SandboxError("bubblewrap is not installed", "make sandbox")

    monkeypatch.setattr("zfleet.rewards.grading.shared_sandbox", fail)
    result = grade([_row(RIGHT)])
    assert result.exit_code == 1
    assert "bubblewrap is not installed" in result.output


@pytest.mark.parametrize("end", ["\n```", "\n```\nDone."])
def test_a_fence_that_nothing_opened_ends_the_program(grade: Callable[..., Any], end: str) -> None:
    completions = ["def one():\n    return 1", "    return 1", "def one():\n    return 2", "    return 2"]
    summary = json.loads(grade([_row(completion + end) for completion in completions], "--json").stdout)
    assert (summary["right"], summary["agreement"]) == (2, 0.5)


def test_two_problems_of_one_id_are_refused(grade: Callable[..., Any]) -> None:
    other = {"test": "def check(c):\n    assert c() == 2"}
    result = grade([_row(RIGHT)], problems=({}, {"task_id": "t/1"}, other))
    assert result.exit_code == 1
    output = result.output.replace("\n", "")
    assert "line 3 has task_id 't/0'" in output
    assert "line 1" in output
    # An identical row is accepted.
    assert json.loads(grade([_row(RIGHT)], "--json", problems=({}, {})).stdout)["right"] == 1
