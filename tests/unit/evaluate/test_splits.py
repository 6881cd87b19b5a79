"""Shots, selection and test: how they are drawn, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfleet.errors import TaskError
from zfleet.evaluate.splits import Split, check_disjoint, prompt_digest, row_digest, split
from zfleet.rewards.text import Exact
from zfleet.tasks.generated.load import generated_task
from zfleet.tasks.lab import lab_task
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate


def task(train: Sequence[Sample], test: Sequence[Sample], name: str = "t") -> Task:
    return Task(name, tuple(train), tuple(test), PromptTemplate(), Exact(), 4)


def rows(side: str, *prompts: str) -> list[Sample]:
    return [Sample(f"{side}/{place}", prompt, "a") for place, prompt in enumerate(prompts)]


def many(count: int) -> list[Sample]:
    return rows("train", *(f"prompt {place}" for place in range(count)))


def refusal(splits: dict[str, Split], shots: int = 0, draws: Sequence[int] = ()) -> str:
    with pytest.raises(TaskError) as caught:
        check_disjoint(splits, shots, draws)
    assert caught.value.remedy
    return caught.value.message


@given(st.integers(1, 6), st.integers(0, 3))
def test_fewer_shots_of_a_draw_are_the_first_of_more(count: int, draw: int) -> None:
    parts = split(task(many(40), rows("test", "x")), 10, 5)
    drawn = parts.shots(count, draw)
    assert drawn == parts.shots(10, draw)[:count]
    assert len({shot.id for shot in drawn}) == count
    assert parts.shots(10, draw) != parts.shots(10, draw + 1)


@given(st.permutations(range(30)))
def test_the_order_of_the_rows_changes_nothing(order: list[int]) -> None:
    train = many(30)
    shuffled = split(task([train[place] for place in order], rows("test", "x")), 5, 5)
    parts = split(task(train, rows("test", "x")), 5, 5)
    assert shuffled.selection == parts.selection
    assert shuffled.shots(4, 1) == parts.shots(4, 1)


def test_a_training_prompt_is_on_the_same_side_in_every_task() -> None:
    """So that no task's shots can be another's selection."""
    exam, reverse = (split(lab_task(name), 64, 100) for name in ("exam_trained", "reverse"))
    assert len(exam.selection) == 64
    check_disjoint({"exam": exam, "reverse": reverse}, 10, range(5))
    assert not {prompt_digest(s) for s in exam.pool} & {prompt_digest(s) for s in reverse.selection}


def test_generated_tasks_are_disjoint() -> None:
    check_disjoint({n: split(generated_task(n), 32, 100) for n in ("generated_exam", "reviews")}, 10, (0, 1, 2))


def test_a_prompt_that_training_repeats_counts_once() -> None:
    parts = split(task([*rows("train", "same", "same", "same"), *many(3)], rows("test", "x")), 0, 5)
    assert len(parts.pool) <= 4
    assert [sample.prompt for sample in parts.few_shot(1, 0).train] == [parts.shots(1, 0)[0].prompt]
    assert parts.few_shot(1, 0).test == ()


def test_more_shots_than_prompts_are_refused() -> None:
    parts = split(task(many(3), rows("test", "x")), 0, 5)
    with pytest.raises(TaskError, match="distinct training prompts to draw shots from, 4 were asked for") as caught:
        parts.shots(4, 0)
    assert "shots" in caught.value.remedy


def test_a_task_without_a_test_is_refused() -> None:
    with pytest.raises(TaskError, match="task t has no held-out prompts"):
        split(task(many(3), ()), 0, 5)


def test_a_shot_in_the_test_of_another_task_is_refused_with_its_row() -> None:
    mine = split(task(many(30), rows("test", "x")), 0, 5)
    shot = mine.shots(1, 0)[0]
    theirs = rows("train", "other one", "other two", "other three", "other four")
    held = Sample("their-row", f"  {shot.prompt}\n", "another")
    other = split(task(theirs, [*rows("test", "y"), held], "u"), 0, 5)
    message = refusal({"mine": mine, "other": other}, 1, (0,))
    assert "1 rows are not" in message
    assert f"is in the shots of mine {shot.id} and in the test of other their-row" in message
    check_disjoint({"mine": mine, "other": split(task(theirs, rows("test", "y"), "u"), 0, 5)}, 1, (0,))


def test_a_prompt_in_the_selection_and_the_test_is_refused() -> None:
    train = many(30)
    chosen = split(task(train, rows("test", "x")), 1, 5).selection[0]
    parts = split(task(train, [Sample("held", chosen.prompt, "a")]), 1, 5)
    assert f"is in the test of t held and in the selection of t {chosen.id}" in refusal({"t": parts})


def test_the_same_test_prompt_in_two_tasks_is_no_overlap() -> None:
    check_disjoint({name: split(task(many(9), rows("test", "x"), name), 1, 5) for name in ("a", "b")}, 1, (0,))


def test_duplicates_are_refused_and_the_first_ten_listed() -> None:
    twice = rows("test", *(f"long prompt number {place} of a test split" for place in range(12))) * 2
    doubled = [Sample(f"row-{place}", sample.prompt, sample.answer) for place, sample in enumerate(twice)]
    message = refusal({"t": split(task(many(9), doubled), 0, 24)})
    assert "12 rows are not" in message
    assert "'long prompt number 0 of a test split' is twice in the test of t: row-0 and row-12" in message
    assert "row-9 and row-21; and 2 more" in message
    assert "row-22" not in message
    # The same question with another answer is another row.
    check_disjoint({"t": split(task(many(9), [Sample("1", "x", "a"), Sample("2", "x", "b")]), 0, 5)}, 0, ())


def test_images_are_part_of_a_prompt(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    one, two = (Sample(name, "what is this?", "cat", images=(str(tmp_path / name),)) for name in ("a", "b"))
    assert prompt_digest(one) != prompt_digest(two)
    assert row_digest(one) != row_digest(two)
    assert row_digest(one) == row_digest(Sample("c", " what is this?", "cat", images=one.images))
