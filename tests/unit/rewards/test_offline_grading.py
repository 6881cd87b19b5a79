"""`zfleet grade`: rows of every kind, agreement, and the public test vectors if they are on this machine."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zfleet_cli.main import app

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no public data in {SHARED}")


def _grade(task: str, file: Path, *options: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["grade", "--task", task, "--file", str(file), "--json", *options])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert isinstance(summary, dict)
    return summary


def _rows(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_agreement_counts_uncontested_rows_and_lists_every_disagreement(tmp_path: Path) -> None:
    row = {"kind": "math_equiv", "gold": "$\\frac12$", "policy": "one"}
    summary = _grade(
        "math",
        _rows(
            tmp_path / "rows.jsonl",
            {**row, "id": "a", "answer": "$0.5$", "expected": True},
            {**row, "id": "b", "answer": "$0.4$", "expected": True},
            {**row, "id": "c", "answer": "$0.4$", "expected": True, "contested": True},
            {**row, "id": "d", "answer": None, "expected": False, "policy": "two"},
        ),
    )
    assert (summary["n"], summary["right"], summary["contested"]) == (4, 1, 1)
    assert summary["agreement"] == pytest.approx(2 / 3)
    assert summary["policies"] == {"one": {"n": 2, "agreement": 0.5}, "two": {"n": 1, "agreement": 1.0}}
    assert [row["id"] for row in summary["disagreements"]] == ["b", "c"]
    assert set(summary["disagreements"][0]) >= {"id", "expected", "verdict", "extracted", "reason"}


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
    summary = _grade("humaneval", rows, "--problems", str(problems))
    assert (summary["n"], summary["right"], summary["agreement"]) == (2, 1, None)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"kind": "extract_boxed"}, "lacks 'text'"),
        ({"task_id": "a", "completion": ""}, "no problem is called 'a'"),
        ({"gold": "1"}, "lacks 'answer'"),
        ({"kind": "math_equiv", "gold": "1", "answer": "1", "params": {"precision": "x"}}, "params.precision is 'x'"),
        ({"kind": "math_equiv", "gold": "1", "answer": "1", "params": {"match_types": ["words"]}}, "'words'"),
    ],
)
def test_a_row_that_lacks_a_field_of_its_kind_is_named(tmp_path: Path, row: dict[str, str], reason: str) -> None:
    file = _rows(tmp_path / "rows.jsonl", row)
    result = CliRunner().invoke(app, ["grade", "--task", "mbpp", "--file", str(file)])
    assert result.exit_code == 1
    assert reason in result.output
    assert "line 1" in result.output


@pytest.mark.parametrize(
    ("task", "answer"), [("gsm8k", "NaN"), ("gsm8k", "eighteen"), ("gsm8k", "9" * 5000), ("arc_easy", "wood")]
)
def test_a_reference_that_no_answer_can_match_is_named(tmp_path: Path, task: str, answer: str) -> None:
    file = _rows(tmp_path / "rows.jsonl", {"completion": "B", "answer": "1"}, {"completion": "B", "answer": answer})
    result = CliRunner().invoke(app, ["grade", "--task", task, "--file", str(file)])
    assert result.exit_code == 1
    assert "line 2 cannot be graded" in " ".join(result.output.split())


def test_a_number_of_thousands_of_digits_gets_a_verdict(tmp_path: Path) -> None:
    row = {"text": "9" * 5000, "expected": 1}
    completion = {"completion": f"#### {'9' * 5000}", "answer": "18", "expected": False}
    kinds = ("extract_final_int", "extract_boxed", "extract_gsm8k_final_answer")
    file = _rows(tmp_path / "rows.jsonl", *({"kind": kind, **row} for kind in kinds), completion)
    summary = _grade("gsm8k", file)
    assert [row["id"].rsplit(" ", 1)[1] for row in summary["disagreements"]] == ["1", "2", "3"]
    assert summary["agreement"] == 0.25


_SEPARATORS = (",", "{,}", r"\,", r",\!", "\u2009", "\u202f")


def _spellings(value: Fraction, rng: random.Random) -> str:
    """Write a number in one of the ways that people do."""
    sign = rng.choice(["-", "−"]) if value < 0 else rng.choice(["", "", "+"])
    size = abs(value)
    upper, lower = size.numerator, size.denominator
    factor = rng.randint(1, 9)
    if lower != 1 and 10**8 % lower:
        command = rng.choice(["frac", "dfrac", "tfrac", "cfrac"])
        written = rng.choice([rf"\{command}{{{upper * factor}}}{{{lower * factor}}}", f"{upper}/{lower}"])
        if upper > lower and rng.random() < 0.3:
            written = rf"{upper // lower}\frac{{{upper % lower}}}{{{lower}}}"
        return sign + written
    decimal = f"{Decimal(upper) / Decimal(lower):f}"
    whole, _, part = decimal.partition(".")
    match rng.randint(0, 4):
        case 0:
            written = f"{int(whole):,}".replace(",", rng.choice(_SEPARATORS)) + (f".{part}" if part else "")
        case 1:
            written = "0" * rng.randint(0, 3) + decimal
        case 2:
            shift = rng.randint(-30, 30)
            power = rng.choice([f"e{-shift}", rf" \times 10^{{{-shift}}}", f" * 10**{-shift}", f"x10^{-shift}"])
            written = f"{Decimal(decimal).scaleb(shift):f}{power}"
        case 3:
            written = rf"\frac{{{upper * factor}}}{{{lower * factor}}}"
        case _:
            written = rng.choice(["$", r"\$", "€", ""]) + decimal
    return sign + written


_ANSWERS = (
    "Of 3 and 4.\n#### {}",
    "#### {} in 2 months",
    "#### **{}**",
    r"so $\boxed{{{}}}$, not 7",
    r"\boxed{{{}\text{{ units}}}}",
    r"\boxed{{\text{{{} units in 2 days}}}}",
    r"\fbox{{{}}}.",
    "The answer is {}. I am 99 % sure.",
    "**Answer:** {} of 100",
    "It was 5. In the end it is {}.",
    "#### {}\n\nQuestion: Tom has 3.\n#### 3",
)


def test_numbers_in_any_spelling_agree_with_exact_arithmetic(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = []
    for number in range(2000):
        digits = rng.choice([1, 3, 6, 12])
        value = Fraction(rng.randint(-(10**digits), 10**digits), rng.choice([1, 1, 2, 3, 7, 10, 1000, 10**8]))
        wrong = value + rng.choice([Fraction(1), Fraction(-1), Fraction(1, 10**6), value]) if number % 2 else value
        reference = _spellings(value, rng)
        completion = rng.choice(_ANSWERS).format(_spellings(wrong, rng))
        rows.append({"id": number, "completion": completion, "answer": reference, "expected": wrong == value})
    summary = _grade("gsm8k", _rows(tmp_path / "rows.jsonl", *rows))
    assert (summary["n"], summary["disagreements"]) == (2000, [])


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
    from zfleet.rewards.formulas.grader import MathAnswer
    from zfleet.tasks.task import Sample

    grader, sample = MathAnswer(seconds=2), Sample("1", "", "\\frac{1}{2}")
    assert not grader(bomb, sample).right
    assert grader("\\boxed{0.5}", sample).right


@needs_shared
@pytest.mark.parametrize(
    ("task", "file", "measure", "threshold"),
    [
        ("gsm8k", "gsm8k_completions_600.jsonl", "agreement", 0.99),
        ("gsm8k", "answer_extraction.jsonl", "agreement", 1.0),
        ("math", "math_equiv.jsonl", "math-verify", 0.95),
    ],
)
def test_public_vectors_agree_with_their_authors(task: str, file: str, measure: str, threshold: float) -> None:
    summary = _grade(task, SHARED / "grader_vectors" / file)
    policies = summary["policies"]
    agreement = policies[measure]["agreement"] if measure in policies else summary[measure]
    assert agreement >= threshold, summary["disagreements"]


@needs_shared
def test_reference_programs_pass_and_stubs_fail() -> None:
    summary = _grade(
        "mbpp_sanitized",
        SHARED / "grader_vectors" / "code_mbpp_sanitized.jsonl",
        "--problems",
        str(SHARED / "mbpp" / "sanitized-mbpp.json"),
    )
    # The authors call references 123 and 640 slow, so the file does not expect them to pass.
    assert summary["agreement"] == 1.0, summary["disagreements"]


@needs_shared
def test_the_humaneval_example_gives_the_published_rate() -> None:
    folder = SHARED / "humaneval"
    summary = _grade("humaneval", folder / "example_samples.jsonl", "--problems", str(folder / "example_problem.jsonl"))
    assert (summary["right"], summary["n"]) == (3, 6)
