"""Public datasets: rows in their authors' form, broken rows, splits and prompts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from zfleet.config.task_specs import TaskSpec
from zfleet.errors import TaskError
from zfleet.tasks.build import build_task
from zfleet.tasks.task import Task

GSM8K = {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4 thousand\n#### 4,000"}
ARC = {
    "id": "one",
    "question": {"stem": "Which floats?", "choices": [{"text": "wood", "label": "1"}, {"text": "iron", "label": "2"}]},
    "answerKey": "1",
}
MBPP = {
    "task_id": 11,
    "prompt": "Write a function that doubles.",
    "code": "import math\ndef double(x):\n    return 2 * x",
    "test_imports": [],
    "test_list": ["assert double(2) == 4", "assert double(math.inf) == math.inf"],
}
HUMANEVAL = {
    "task_id": "test/0",
    "prompt": "def one():\n",
    "entry_point": "one",
    "canonical_solution": "    return 1",
    "test": "def check(candidate):\n    assert candidate() == 1",
}
MATH = {"problem": "What is a half?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{\\frac12}$."}


def _write(path: Path, rows: list[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def _many(row: Mapping[str, Any], key: str, count: int = 20) -> list[Mapping[str, Any]]:
    return [{**row, key: f"{row[key]} ({number})"} for number in range(count)]


def _task(dataset: str, data: Path, **values: Any) -> Task:
    return build_task(TaskSpec.model_validate({"dataset": dataset, "data": str(data), **values}))


def test_gsm8k_has_two_files_and_one_number(tmp_path: Path) -> None:
    _write(tmp_path / "train.jsonl", [GSM8K])
    _write(tmp_path / "test.jsonl", [{**GSM8K, "question": "And here?"}])
    task = _task("gsm8k", tmp_path)
    (sample,) = task.train
    assert (sample.answer, sample.fields["question"]) == ("4000", "How many?")
    assert sample.prompt.startswith("How many?\n\n")
    assert task.reward("So it is 4,000.", sample).right
    assert not task.reward("So it is 4.", sample).right
    assert [sample.fields["question"] for sample in task.test] == ["And here?"]


def test_a_single_file_is_split_by_its_prompts(tmp_path: Path) -> None:
    file = _write(tmp_path / "train.jsonl", _many(GSM8K, "question"))
    task = _task("gsm8k", file, test_fraction=0.3)
    assert len(task.train) + len(task.test) == 20
    assert min(len(task.train), len(task.test)) > 0
    longer = _write(tmp_path / "train.jsonl", _many(GSM8K, "question", 30))
    longer_test = _task("gsm8k", longer, test_fraction=0.3).test
    assert {sample.id for sample in task.test} <= {sample.id for sample in longer_test}


def test_arc_reads_the_authors_form_and_the_hubs(tmp_path: Path) -> None:
    hub = {
        "id": "two",
        "question": "Which sinks?",
        "choices": {"text": ["wood", "iron", "cork"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    }
    _write(tmp_path / "ARC-Easy-Train.jsonl", [ARC])
    _write(tmp_path / "ARC-Easy-Dev.jsonl", [hub])
    task = _task("arc_easy", tmp_path)
    (train,), (test,) = task.train, task.test
    assert "1. wood\n2. iron" in train.prompt
    assert "one of A, B, C." in test.prompt
    assert task.reward("It is dense. The answer is B.", test).right
    assert task.reward("The answer is 1.", train).right


def test_mbpp_takes_names_and_imports_from_the_solution(tmp_path: Path) -> None:
    _write(tmp_path / "sanitized-mbpp.json", [MBPP, {**MBPP, "task_id": 601}, {**MBPP, "task_id": 3}])
    task = _task("mbpp_sanitized", tmp_path)
    (train,), (test,) = task.train, task.test
    assert (train.fields["task_id"], test.fields["task_id"]) == ("601", "11")
    exam = json.loads(test.fields["exam"])
    assert (exam["names"], exam["setup"]) == (["double"], "import math")
    assert "assert double(2) == 4" in test.prompt


def test_humaneval_has_one_side_and_is_split(tmp_path: Path) -> None:
    _write(tmp_path / "HumanEval.jsonl.gz", _many(HUMANEVAL, "prompt"))
    task = _task("humaneval", tmp_path, test_fraction=0.5)
    assert len(task.train) + len(task.test) == 20
    assert json.loads(task.test[0].fields["exam"])["names"] == ["one"]


def test_humaneval_tests_take_helpers_from_the_prompt_and_never_from_the_completion(tmp_path: Path) -> None:
    row = {
        **HUMANEVAL,
        "prompt": 'def double(x):\n    return 2 * x\n\n\ndef one(x):\n    "Halve what double gives."\n',
        "test": "def check(candidate):\n    assert candidate(double(3)) == 3",
    }
    rows: list[Mapping[str, Any]] = [{**row, "prompt": f"# {number}\n{row['prompt']}"} for number in range(20)]
    _write(tmp_path / "HumanEval.jsonl", rows)
    task = _task("humaneval", tmp_path, test_fraction=0.5)
    assert task.reward("    return x // 2", task.test[0]).right
    assert not task.reward("def double(x):\n    return 3\ndef one(x):\n    return x", task.test[0]).right


def test_math_takes_the_last_box_of_the_solution(tmp_path: Path) -> None:
    for side in ("train", "test"):
        path = tmp_path / side / "algebra" / "1.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(MATH))
    task = _task("math", tmp_path)
    assert task.test[0].answer == "\\frac12"
    assert task.reward("It is $\\boxed{0.5}$", task.test[0]).right
    assert not task.reward("It is $\\boxed{0.4}$", task.test[0]).right


@pytest.mark.parametrize(
    ("solution", "answer"), [("$\\boxed 2$", "2"), ("$\\boxed\\frac{1}{2}$", "\\frac{1}{2}"), ("\\fbox{2}", "2")]
)
def test_math_takes_boxes_without_braces(tmp_path: Path, solution: str, answer: str) -> None:
    file = _write(tmp_path / "train.jsonl", _many({**MATH, "solution": f"So {solution}"}, "problem"))
    task = _task("math", file)
    assert {sample.answer for sample in task.train} == {answer}
    assert task.reward(f"It is {solution}.", task.train[0]).right
    assert not task.reward("It is $\\boxed 3$.", task.train[0]).right


def test_classify_draws_from_the_training_tasks_in_equal_parts(tmp_path: Path) -> None:
    for side in ("train", "test"):
        _write(tmp_path / "gsm8k" / f"{side}.jsonl", _many(GSM8K, "question", 3))
        _write(tmp_path / "arc" / f"ARC-Easy-{side.title()}.jsonl", [ARC] * 5)
    _write(tmp_path / "mbpp" / "sanitized-mbpp.json", [{**MBPP, "task_id": number} for number in (11, 12, 601, 602)])
    task = _task("classify", tmp_path)
    assert [sample.answer for sample in task.train] == ["math", "code", "reasoning"] * 2
    assert task.reward("It is \\boxed{Code}", task.train[1]).right
    assert not task.reward("It is \\boxed{math}", task.train[1]).right


def test_prompt_and_reward_can_be_replaced(tmp_path: Path) -> None:
    file = _write(tmp_path / "train.jsonl", _many(GSM8K, "question"))
    task = _task("gsm8k", file, prompt="Q: {question}\nA:", reward={"kind": "contains"}, max_tokens=7)
    assert task.train[0].prompt.startswith("Q: How many?")
    assert task.reward("4000", task.train[0]).right
    assert task.max_tokens == 7


@pytest.mark.parametrize(
    ("dataset", "name", "row", "reason"),
    [
        ("gsm8k", "train.jsonl", {"question": "How many?", "answer": "four"}, "no number after ####"),
        ("gsm8k", "train.jsonl", {"question": "How many?", "answer": "#### NaN"}, "no number after ####"),
        ("gsm8k", "train.jsonl", {"question": "How many?"}, "lacks 'answer'"),
        ("gsm8k", "train.jsonl", {"question": 3, "answer": "#### 3"}, "question is 3: it must be a string"),
        ("arc_easy", "ARC-Easy-Train.jsonl", {**ARC, "answerKey": "C"}, "answerKey is 'C', its choices are 1, 2"),
        ("arc_easy", "ARC-Easy-Train.jsonl", {"id": "x", "question": {"stem": "?"}}, "lacks 'choices'"),
        ("mbpp_sanitized", "sanitized-mbpp.json", {**MBPP, "code": "def ("}, "code is not Python"),
        ("mbpp_sanitized", "sanitized-mbpp.json", {**MBPP, "code": "x = 1"}, "tests use no name"),
        ("mbpp_sanitized", "sanitized-mbpp.json", {**MBPP, "test_list": "assert"}, "test_list is not a list"),
        ("humaneval", "HumanEval.jsonl", {**HUMANEVAL, "test": "def ("}, "test is not Python"),
        ("math", "train.jsonl", {**MATH, "solution": "It is 1/2."}, "has no .* answer"),
    ],
)
def test_a_broken_row_is_named_by_file_and_place(
    tmp_path: Path, dataset: str, name: str, row: dict[str, Any], reason: str
) -> None:
    rows: dict[str, Mapping[str, Any]] = {
        "gsm8k": GSM8K,
        "arc_easy": ARC,
        "mbpp_sanitized": MBPP,
        "humaneval": HUMANEVAL,
        "math": MATH,
    }
    _write(tmp_path / name, [rows[dataset], row])
    with pytest.raises(TaskError, match=rf"{name}, (line 2|item 1).*{reason}"):
        _task(dataset, tmp_path)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="does not exist"):
        _task("gsm8k", tmp_path / "none")
    with pytest.raises(TaskError, match="has no train rows"):
        _task("gsm8k", tmp_path)
    _write(tmp_path / "train.jsonl", _many(GSM8K, "question"))
    with pytest.raises(TaskError, match=r"prompt '\{problem\}' cannot be filled"):
        _task("gsm8k", tmp_path, prompt="{problem}")


def test_without_data_and_without_the_hub_the_error_says_so() -> None:
    with pytest.raises(TaskError, match=r"cannot be read from the hub") as caught:
        build_task(TaskSpec.model_validate({"dataset": "gsm8k"}))
    assert "data" in caught.value.remedy
