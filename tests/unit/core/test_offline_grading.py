"""`zfleet grade`: rows of every kind, agreement, and the public vectors where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zfleet_cli.main import app

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no public data in {SHARED}")


def _grade(task: str, file: Path, *more: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["grade", "--task", task, "--file", str(file), "--json", *more])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def _rows(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_agreement_counts_uncontested_rows_and_lists_every_disagreement(tmp_path: Path) -> None:
    row = {"kind": "math_equiv", "gold": "$\\frac12$", "policy": "one"}
    found = _grade(
        "math",
        _rows(
            tmp_path / "rows.jsonl",
            {**row, "id": "a", "answer": "$0.5$", "expected": True},
            {**row, "id": "b", "answer": "$0.4$", "expected": True},
            {**row, "id": "c", "answer": "$0.4$", "expected": True, "contested": True},
            {**row, "id": "d", "answer": None, "expected": False, "policy": "two"},
        ),
    )
    assert (found["n"], found["right"], found["contested"]) == (4, 1, 1)
    assert found["agreement"] == pytest.approx(2 / 3)
    assert found["policies"] == {"one": {"n": 2, "agreement": 0.5}, "two": {"n": 1, "agreement": 1.0}}
    assert [one["id"] for one in found["disagreements"]] == ["b", "c"]
    assert set(found["disagreements"][0]) >= {"id", "expected", "verdict", "extracted", "reason"}


def test_programs_are_graded_against_their_problems(tmp_path: Path) -> None:
    problem = {
        "task_id": "test/0",
        "prompt": "def one():\n",
        "entry_point": "one",
        "canonical_solution": "    return 1",
        "test": "def check(candidate):\n    assert candidate() == 1",
    }
    problems = _rows(tmp_path / "problems.jsonl", problem)
    rows = _rows(
        tmp_path / "rows.jsonl",
        {"task_id": "test/0", "completion": "    return 1"},
        {"task_id": "test/0", "completion": "    return 2"},
    )
    found = _grade("humaneval", rows, "--problems", str(problems))
    assert (found["n"], found["right"], found["agreement"]) == (2, 1, None)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"kind": "extract_boxed"}, "lacks 'text'"),
        ({"task_id": "a", "completion": ""}, "no problem is called 'a'"),
        ({"gold": "1"}, "lacks 'answer'"),
    ],
)
def test_a_row_without_what_its_kind_needs_is_named(tmp_path: Path, row: dict[str, str], reason: str) -> None:
    file = _rows(tmp_path / "rows.jsonl", row)
    result = CliRunner().invoke(app, ["grade", "--task", "mbpp", "--file", str(file)])
    assert result.exit_code == 1
    assert reason in result.output
    assert "line 1" in result.output


def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["grade", "--task", "gsm9k", "--file", str(tmp_path)])
    assert result.exit_code == 1
    assert "choose one of: gsm8k" in result.output


@pytest.mark.parametrize(
    "bomb",
    [
        "\\boxed{" * 2000 + "1" + "}" * 2000,
        "\\boxed{9^{9^{9^{9}}}}",
        "$9^9^9^9$",
        "9**9**9**9 = 9^9^9^9",
        "$" + "\\frac{" * 500 + "1" + "}{2}" * 500 + "$",
        "$" + "(" * 5000 + ")" * 5000 + "$",
        "\\boxed{(10^{10^{10}})!}",
        "\\boxed{\\sum_{n=1}^{10^{12}} n^{n}}",
        "$" + "x+" * 20_000 + "x$",
        "\\boxed{\x00\ud800}",
    ],
)
def test_bombs_for_the_parser_are_wrong_and_the_next_is_graded(bomb: str) -> None:
    from zfleet.rewards.math_answer import MathAnswer
    from zfleet.tasks.task import Sample

    grader, sample = MathAnswer(seconds=2), Sample("1", "", "\\frac{1}{2}")
    assert not grader(bomb, sample).right
    assert grader("\\boxed{0.5}", sample).right


@needs_shared
@pytest.mark.parametrize(
    ("task", "file", "most", "bar"),
    [
        ("gsm8k", "gsm8k_completions_600.jsonl", "agreement", 0.99),
        ("gsm8k", "answer_extraction.jsonl", "agreement", 1.0),
        ("math", "math_equiv.jsonl", "math-verify", 0.95),
    ],
)
def test_public_vectors_agree_with_their_authors(task: str, file: str, most: str, bar: float) -> None:
    found = _grade(task, SHARED / "grader_vectors" / file)
    agreement = found["policies"][most]["agreement"] if most in found["policies"] else found[most]
    assert agreement >= bar, found["disagreements"]


@needs_shared
def test_reference_programs_pass_and_stubs_fail() -> None:
    found = _grade(
        "mbpp_sanitized",
        SHARED / "grader_vectors" / "code_mbpp_sanitized.jsonl",
        "--problems",
        str(SHARED / "mbpp" / "sanitized-mbpp.json"),
    )
    # References 123 and 640 are slow by their authors' own account, and are not expected to pass.
    assert found["agreement"] == 1.0, found["disagreements"]


@needs_shared
def test_the_humaneval_example_gives_the_published_rate() -> None:
    folder = SHARED / "humaneval"
    found = _grade("humaneval", folder / "example_samples.jsonl", "--problems", str(folder / "example_problem.jsonl"))
    assert (found["right"], found["n"]) == (3, 6)
