"""Tasks from JSONL files, the prompts that fit, and the digest of the data."""

from __future__ import annotations

import json
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zfleet.config.task_specs import RewardSpec, TaskSpec
from zfleet.errors import SpecError, TaskError
from zfleet.models.lab.tokenizer import build_tokenizer
from zfleet.rewards.text import Contains, Exact
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import data_digest, fit_prompts
from zfleet.tasks.jsonl import load_jsonl_task
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate

ROWS = [{"prompt": f"add {n} 1", "answer": n + 1} for n in range(40)]


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def spec(path: Path, **values: Any) -> TaskSpec:
    return TaskSpec.model_validate({"jsonl": str(path), **values})


def test_a_file_becomes_a_task(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", *ROWS)
    task = build_task(spec(path, max_tokens=5, stop=["\n"]))
    assert task.name == "sums"
    assert isinstance(task.reward, Exact)
    assert (task.max_tokens, task.stop, task.template) == (5, ("\n",), PromptTemplate())
    samples = (*task.train, *task.test)
    assert sorted((s.prompt, s.answer) for s in samples) == sorted((str(r["prompt"]), str(r["answer"])) for r in ROWS)
    assert len({sample.id for sample in samples}) == len(ROWS)
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301


def test_the_fraction_held_out_is_about_test_fraction(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", *({"prompt": f"p{n}", "answer": "a"} for n in range(2000)))
    assert 330 < len(load_jsonl_task(spec(path)).test) < 470
    assert 930 < len(load_jsonl_task(spec(path, test_fraction=0.5)).test) < 1070


def test_fields_become_text_and_serve_templates(tmp_path: Path) -> None:
    rows = [{"q": n, "level": {"grade": 3}, "hard": True, "note": None, "answer": 1.5} for n in range(20)]
    task = load_jsonl_task(spec(write(tmp_path / "t.jsonl", *rows), prompt_field="q", template="{level} {q}?"))
    sample = task.train[0]
    assert sample.prompt == sample.fields["q"]
    assert sample.answer == "1.5"
    assert sample.fields["level"] == '{"grade": 3}'
    assert sample.fields["hard"] == "true"
    assert "note" not in sample.fields


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x"', "is not JSON"),
        ("hello", "is not JSON"),
        ('["a"]', "is a JSON list, not an object"),
        ('"text"', "is a JSON str, not an object"),
        ('{"question": "x", "answer": "y"}', "lacks the prompt field 'prompt'"),
        ('{"prompt": null, "answer": "y"}', "lacks the prompt field 'prompt'"),
        ('{"prompt": "  ", "answer": "y"}', "'prompt' is empty"),
        ('{"prompt": "x"}', "lacks the answer field 'answer'"),
        ('{"prompt": "\\ud800", "answer": "y"}', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    # The blank line counts, but is not an error.
    path = write(tmp_path / "t.jsonl", ROWS[0], "", line, ROWS[1])
    with pytest.raises(TaskError) as caught:
        load_jsonl_task(spec(path))
    assert caught.value.message.startswith(f"{path}, line 3")
    assert message in caught.value.message
    assert caught.value.remedy


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"prompt": "a", "answer": "b"}\n{"prompt": "\xff", "answer": "b"}\n')
    with pytest.raises(TaskError, match="line 2 is not JSON"):
        load_jsonl_task(spec(path))


def test_the_remedy_names_the_fields_of_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"question": "x", "gold": "y"})
    with pytest.raises(TaskError) as caught:
        load_jsonl_task(spec(path))
    assert "question, gold" in caught.value.remedy


def test_a_reward_with_a_value_needs_no_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", *({"prompt": f"p{n}"} for n in range(40)))
    task = load_jsonl_task(spec(path, reward={"kind": "contains", "value": "play"}))
    assert task.reward == Contains("play")
    assert task.train[0].answer == ""


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{prompt} {hint}", "line 1 lacks the field 'hint'"),
        ("Q: {prompt", "is not a format string"),
        ("always the same", "names no field"),
        ("{prompt} {}", "line 1 lacks the field ''"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(tmp_path: Path, template: str, message: str) -> None:
    path = write(tmp_path / "t.jsonl", *ROWS)
    with pytest.raises(TaskError) as caught:
        load_jsonl_task(spec(path, template=template))
    assert message in caught.value.message


@pytest.mark.parametrize("rows", [[], ROWS[:1], [ROWS[0]] * 20])
def test_an_empty_split_is_refused(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = write(tmp_path / "t.jsonl", *rows)
    with pytest.raises(TaskError, match=rf"leaves the (train|test) split empty: {len(rows)} rows"):
        load_jsonl_task(spec(path))


def test_a_missing_file_and_a_bad_reward_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"nowhere\.jsonl cannot be read: No such file"):
        load_jsonl_task(spec(tmp_path / "nowhere.jsonl"))
    with pytest.raises(TaskError, match="cannot be read"):
        load_jsonl_task(spec(tmp_path))
    with pytest.raises(SpecError, match="not a regular expression"):
        load_jsonl_task(TaskSpec(jsonl=str(tmp_path), reward=RewardSpec(kind="regex", value="(")))


ROW = st.fixed_dictionaries(
    {"prompt": st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), "answer": st.sampled_from("abc")}
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=30), seed=st.integers(0, 1000))
def test_the_split_is_stable_and_leaks_nothing(tmp_path: Path, rows: list[dict[str, str]], seed: int) -> None:
    # Enough rows for both sides, and some rows twice: identical rows must stay on one side.
    rows = [*rows, *rows[:3], *({"prompt": f"p{n}", "answer": "a"} for n in range(30))]
    path = write(tmp_path / "t.jsonl", *rows)
    task = load_jsonl_task(spec(path))
    assert len(task.train) + len(task.test) == len(rows)
    ids = [sample.id for sample in (*task.train, *task.test)]
    assert len(set(ids)) == len(ids)
    assert not {s.prompt for s in task.train} & {s.prompt for s in task.test}

    shuffled = random.Random(seed).sample(rows, len(rows))
    again = load_jsonl_task(spec(write(path, *shuffled)))
    assert again == task
    assert data_digest(again) == data_digest(task)

    more = load_jsonl_task(spec(write(path, *rows, {"prompt": "one more", "answer": "a"})))
    assert all(sample in more.train for sample in task.train)
    assert all(sample in more.test for sample in task.test)


def tiny(*prompts: str, max_tokens: int = 4) -> Task:
    samples = tuple(Sample(str(place), prompt, "x") for place, prompt in enumerate(prompts))
    return Task("tiny", samples[:-1], samples[-1:], PromptTemplate("{prompt}"), Exact(), max_tokens)


def test_prompts_that_do_not_fit_are_left_out_and_reported() -> None:
    tokenizer = build_tokenizer()
    task = tiny("flip ab", "flip " + "ab" * 20, "flip bc")
    length = len(tokenizer("flip ab")["input_ids"]) + 4
    report = fit_prompts(task, tokenizer, length)
    assert [sample.id for sample in report.task.train] == ["0"]
    assert report.task.test == task.test
    assert (report.left_out, report.checked) == (("1",), 3)
    assert report.longest > length
    assert "1 of 3 prompts of tiny are left out" in str(report)

    everything = fit_prompts(task, tokenizer, report.longest)
    assert everything.task == task
    assert not everything.left_out
    with pytest.raises(TaskError, match="no train prompt of tiny fits"):
        fit_prompts(task, tokenizer, length - 1)


def test_the_data_digest_sees_every_part_of_the_data() -> None:
    task = tiny("a", "b", "c")
    same = replace(task, name="other", max_tokens=9)
    assert data_digest(same) == data_digest(task)
    first = task.train[0]
    changed = [
        replace(task, train=task.train[1:], test=(*task.test, first)),
        *(
            replace(task, train=(replace(first, **change), *task.train[1:]))
            for change in ({"id": "z"}, {"prompt": "z"}, {"answer": "z"}, {"fields": {"z": "z"}})
        ),
    ]
    digests = {data_digest(other) for other in changed}
    assert len(digests) == len(changed)
    assert data_digest(task) not in digests


@pytest.mark.parametrize(
    ("kind", "answer", "message"),
    [
        ("number", "NaN", "'NaN' holds no number"),
        ("number", "Infinity", "'Infinity' holds no number"),
        ("number", '"eighteen"', "'eighteen' holds no number"),
        ("number", "1e999999", "holds no number"),
        ("choice", '"wood"', "'wood' is not a label"),
        ("choice", '"A or B"', "'A or B' is not a label"),
    ],
)
def test_a_reference_that_no_answer_can_match_is_named(tmp_path: Path, kind: str, answer: str, message: str) -> None:
    good = {"prompt": "a", "answer": "5"}
    path = write(tmp_path / "t.jsonl", good, f'{{"prompt": "b", "answer": {answer}}}')
    for reward in ({"kind": kind}, {"kind": "sum", "parts": {"one": {"kind": kind}}}):
        with pytest.raises(TaskError, match=f"line 2 cannot be graded by reward `{kind}`: .*{message}"):
            load_jsonl_task(spec(path, reward=reward))


def test_numbers_keep_their_spelling(tmp_path: Path) -> None:
    answers = ["0.00001", "1e22", "1.50", "12345678901234567.25", "-7"]
    lines = [f'{{"prompt": "{answer} {n}", "answer": {answer}}}' for answer in answers for n in range(9)]
    task = load_jsonl_task(spec(write(tmp_path / "t.jsonl", *lines), reward={"kind": "number"}))
    samples = {sample.answer: sample for sample in (*task.train, *task.test)}
    assert sorted(samples) == sorted(answers)
    assert task.reward("0.00001", samples["0.00001"]).right
    assert not task.reward("5", samples["0.00001"]).right
    assert task.reward("10000000000000000000000", samples["1e22"]).right
    assert not task.reward("22", samples["1e22"]).right
    assert not task.reward("12345678901234567", samples["12345678901234567.25"]).right


@pytest.mark.parametrize(
    ("exam", "message"),
    [
        ({}, "no field 'exam'"),
        ({"exam": "assert"}, "cannot be graded by reward `program`"),
        ({"exam": {"names": ["add"]}}, "needs `names` and `tests`"),
        ({"exam": {"names": ["add"], "tests": "assert"}}, "needs `names` and `tests`"),
        ({"exam": {"names": ["add"], "tests": ["assert add(1)"], "setup": 1}}, "`setup` and `prefix`"),
    ],
)
def test_a_row_without_usable_tests_is_named(tmp_path: Path, exam: dict[str, object], message: str) -> None:
    whole = {"names": ["add"], "tests": ["assert add(1)"]}
    rows = [{"prompt": f"add {number}", "exam": whole} for number in range(40)]
    path = write(tmp_path / "programs.jsonl", *rows)
    build_task(spec(path, reward={"kind": "program"}))
    path = write(path, *rows, {"prompt": "add 0", **exam})
    with pytest.raises(TaskError, match=f"line 41.*{message}"):
        build_task(spec(path, reward={"kind": "sum", "parts": {"all": {"kind": "program"}}}))
