"""Short answers in words: natural ways to write the right one are right, others are wrong."""

from __future__ import annotations

import pytest

from zfleet.rewards.phrase import OPTIONS, OneOf, Phrase
from zfleet.tasks.task import Sample


@pytest.mark.parametrize("text", ["Oslo", "oslo", " Oslo.\n", "**Oslo**", '"Oslo"', "‘Oslo’", "(Oslo)", "OSLO!"])
def test_a_phrase_may_have_marks_around_it(text: str) -> None:
    grade = Phrase()(text, Sample("1", "Where?", "Oslo"))
    assert (grade.value, grade.extracted) == (1.0, "oslo")


@pytest.mark.parametrize("text", ["", ".", "The city is Oslo", "Oslo, Norway", "Oslos", "Os lo", "Bergen"])
def test_a_phrase_is_nothing_but_the_reference(text: str) -> None:
    grade = Phrase()(text, Sample("1", "Where?", "Oslo"))
    assert grade.value == -1.0
    assert "'oslo'" in grade.reason


def test_a_phrase_of_several_words_ignores_blanks_between_them() -> None:
    assert Phrase()("new\n  York", Sample("1", "Where?", "New York")).right
    assert Phrase("2024-01-05")("2024-01-05.", Sample("1", "When?", "")).right


@pytest.mark.parametrize("text", ["positive", "Positive.", "It is positive!", "**positive**", "The review is Positive"])
def test_one_option_is_named(text: str) -> None:
    sample = Sample("1", "?", "positive", {OPTIONS: "positive, negative"})
    assert OneOf()(text, sample).right
    assert not OneOf("negative")(text, sample).right


@pytest.mark.parametrize("text", ["", "good", "positive or negative", "not positive, negative", "positively", "posi-"])
def test_none_or_both_options_is_no_choice(text: str) -> None:
    grade = OneOf()(text, Sample("1", "?", "positive", {OPTIONS: "positive, negative"}))
    assert (grade.value, grade.extracted) == (-1.0, None)


def test_an_option_is_a_whole_word_or_several() -> None:
    sample = Sample("1", "?", "car", {OPTIONS: "car, cart, ice cream"})
    assert not OneOf()("cart", sample).right
    assert OneOf()("A car.", sample).right
    assert OneOf("ice cream")("Ice  cream", sample).right


def test_a_reference_that_no_answer_can_meet_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no word"):
        Phrase().check(" . ")
    Phrase().check("Oslo")
