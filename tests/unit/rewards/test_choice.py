"""The label that the answer to a multiple-choice question chooses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.config.task_specs import RewardSpec
from zfleet.errors import SpecError
from zfleet.rewards.build import build_reward
from zfleet.rewards.choice import Choice, chosen_label
from zfleet.tasks.task import Sample


@pytest.mark.parametrize(
    ("completion", "label"),
    [
        # A label alone, or first.
        ("B", "b"),
        (" (b)", "b"),
        ("B. It is a dog.", "b"),
        ("B) wood", "b"),
        ("B - wood", "b"),
        ("**C**", "c"),
        ("[B]", "b"),
        ("3", "3"),
        ("Option B", "b"),
        ("I", "i"),
        ("It floats.\n\nB", "b"),
        ("It floats.\n**Option B.**", "b"),
        # Stated.
        ("The answer is D", "d"),
        ("The answer is (d) because it floats.", "d"),
        ("The answer is B because it floats.", "b"),
        ("The answer is A because it floats.", "a"),
        ("The answer is A.", "a"),
        ("The answer is A (wood).", "a"),
        ("The answer is (A) wood block", "a"),
        ("The answer is **A** wood", "a"),
        ("The answer is B wood", "b"),
        ("The answer is I.", "i"),
        ("Answer: **B**", "b"),
        ("**Answer:** B", "b"),
        ("**Final Answer**: (C)", "c"),
        ("Answer:\nB", "b"),
        ("Answer: B. wood", "b"),
        ("Answer: `B`", "b"),
        ("The answer is “B”.", "b"),
        ("The answer is 'B'.", "b"),
        ("Final answer - B", "b"),
        ("<answer>B</answer>", "b"),
        ("Some words.\n<answer> (A) wood </answer>", "a"),
        ("The answer is likely B.", "b"),
        ("The answer to the question is B, as A sinks.", "b"),
        ("<answer>A or B</answer>", None),
        ("The answer is clearly A student", None),
        ("Final Answer -> B", "b"),
        ("Answer → B", "b"),
        ("Answer: $B$", "b"),
        ("The answer is \\(B\\).", "b"),
        ("The answer is $\\text{B}$.", "b"),
        ("My choice: B", "b"),
        ("The correct answer is: option C.", "c"),
        ("The correct option is (B).", "b"),
        ("The answer should be B.", "b"),
        ("Answer (B)", "b"),
        ("I think B.", "b"),
        ("I think it is (C)", "c"),
        ("I choose B because it floats", "b"),
        ("I would go with option B.", "b"),
        ("Option A is wrong. Option B is correct.", "b"),
        ("The answer is 12", "12"),
        # Boxes.
        ("\\boxed{B}", "b"),
        ("\\fbox{B}", "b"),
        ("\\boxed{\\text{B}}", "b"),
        ("$\\boxed{\\textbf{(B)}}$", "b"),
        ("The answer is \\boxed{A}.", "a"),
        # The last label counts, but not one of a next question.
        ("answer is A. No, wait: the answer is B.", "b"),
        ("The wrong answer is A. The correct answer is B.", "b"),
        ("Answer: B, A is wrong", "b"),
        ("Of these (A) is wrong, (C) fits.", "c"),
        ("The answer is B.\n\nQuestion: Which sinks?\nThe answer is C.", "b"),
        ("B\n\nQuestion: Which sinks?\nThe answer is C.", "b"),
        ("A. wood\nB. iron\nThe answer is A.", "a"),
        # No label is chosen.
        ("The answer is A student can see it", None),
        ("The answer is A wood block", None),
        ("Answer: A or B", None),
        ("Answer: A, B", None),
        ("Answer: A/B", None),
        ("Answer: A and B", None),
        ("The answer is either A or B", None),
        ("The answer is: Option A or option B", None),
        ("The answer is 1 or 2", None),
        ("(A) or (B)", None),
        ("\\boxed{A} or \\boxed{B}", None),
        ("\\boxed{A, B}", None),
        ("A or B", None),
        ("Both A and B", None),
        ("Neither A nor B is correct.", None),
        ("The answer is not B", None),
        ("Answer: I don't know", None),
        ("I think that A student can see it", None),
        ("A cat sat on the mat.", None),
        ("A. wood\nB. iron\nWood floats.", None),
        ("1. First we look.\n2. Then we see.", None),
        ("The answer is a dog.", None),
        ("The answer is 3.5 metres", None),
        ("The answer is 3 cats", None),
        ("The answer is Berlin", None),
        ("The answer is X-rays", None),
        ("Count the cat(s), as f(x) grows", None),
        ("A-level exam", None),
        ("I'd say nothing", None),
        ("", None),
    ],
)
def test_the_label_that_an_answer_chooses(completion: str, label: str | None) -> None:
    assert chosen_label(completion) == label


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B."])
def test_a_choice_is_graded_by_its_label(answer: str) -> None:
    sample = Sample("1", "Which?", answer)
    assert Choice()("The answer is B.", sample).value == 1.0
    assert Choice()("The answer is C.", sample).value == -1.0
    assert Choice()("No idea.", sample).value == -1.0
    assert Choice("C")("(C)", sample).value == 1.0


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["A", "I", "a", "student", "cats", "B", "sees", "3", "the", "C", "water", "is", "and", "or", "it", "think"]
        ),
        max_size=12,
    )
)
def test_words_without_a_mark_choose_nothing(words: list[str]) -> None:
    assert chosen_label(" ".join(["We", *words, "here"])) is None


@settings(deadline=None)
@given(st.sampled_from("ABCDEFGH"), st.sampled_from("ABCDEFGH"), st.sampled_from([" or ", " and ", ", ", "/", " & "]))
def test_two_labels_are_no_choice(first: str, second: str, between: str) -> None:
    for pattern in ("The answer is {}.", "Answer: ({})", "{}", "\\boxed{{{}}}"):
        assert chosen_label(pattern.format(f"{first}{between}{second}")) is None
    assert chosen_label(f"The answer is {first}, not {second}.") == first.lower()


@pytest.mark.parametrize("bomb", ["answer is A or ", "\\boxed{", "(A) or ", "answer  ", "A, ", "\n", "$", "I think "])
@pytest.mark.timeout(60)
def test_bombs_take_linear_time(bomb: str) -> None:
    chosen_label(bomb * 10**4)


@pytest.mark.parametrize("value", ["wood", "A or B", "123", "?"])
def test_a_value_that_is_not_a_label_is_refused(value: str) -> None:
    with pytest.raises(SpecError, match=r"reward\.value.*not a label"):
        build_reward(RewardSpec(kind="choice", value=value))
