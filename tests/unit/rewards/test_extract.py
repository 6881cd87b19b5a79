"""Extracting the answer from a text."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.rewards.numbers.extract import after_hashes, final_number, last_boxed, last_integer

_NEXT = "\n\nQuestion: Tom has 3 cats and gets 4.\nAnswer: 7\n#### 7"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("A: 18", "18"),
        ("so 2+3=5.", "5"),
        ("10-7", "7"),
        ("16 - 13", "13"),
        ("it falls by -7", "-7"),
        ("It costs $1,234.50.", "1234.50"),
        ("a debt of -$5", "-5"),
        ("a debt of $-5", "-5"),
        ("either 1,2 or 3", "3"),
        ("x2 has none of its own", None),
        ("70%", "70"),
        (".5", "0.5"),
        ("18.", "18"),
        ("", None),
        ("0.00001", "0.00001"),
        ("18 and then 1/0", None),
        ("It costs Rs.1,800", "1800"),
        ("so it is ...18", "18"),
    ],
)
def test_without_a_mark_the_last_number_counts(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Fraction(number))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # The precedence of marks.
        ("#### 4\nor \\boxed{5}, not 6", "4"),
        ("\\boxed{5}, not 6. The answer is 7.", "5"),
        ("The answer is 5. I checked it 6 times.", "5"),
        ("The answer is 4. No: the answer is 5. I checked it 6 times.", "5"),
        ("#### none\n6", "6"),
        ("#### 18\n####", "18"),
        ("#### 17\n#### 18", "18"),
        ("The answer is approximately 18. I checked it 2 times.", "18"),
        ("The answer to this question is 18 of 20.", "18"),
        ("<answer>18</answer> in 2 steps", "18"),
        # Text behind the number.
        ("#### 72 clips in 2 months", "72"),
        ("#### 18 (since 3*6 = 18, not 20)", "18"),
        ("#### The answer is $18 for 3", "18"),
        ("\\boxed{72 \\text{ clips in } 2 \\text{ months}}", "72"),
        ("\\boxed{\\text{18 apples}}", "18"),
        ("Answer: 72 clips in 2 months", "72"),
        ("**Final Answer:** $72$ clips in 2 months", "72"),
        ("The final answer is \\(72\\) clips in 2 months.", "72"),
        # Equations and expressions.
        ("#### 3*6 = 18", "18"),
        ("#### 18 = 3 * 6", "18"),
        ("#### 3*6=<<3*6=18>>18", "18"),
        ("#### $3 * $6 = $18 for 2", "18"),
        ("#### x = 18", "18"),
        ("#### 10 -7 = 3 clips", "3"),
        ("\\boxed{3 \\times 6 = 18}", "18"),
        ("#### 10-7", "7"),
        ("The answer is 5 + 3, which is 8", "8"),
        ("The answer is 3 boxes * 6 apples/box = 18 apples.", "18"),
        ("#### 20 apples - 2 apples = 18", "18"),
        ("The answer is 15% * 120 = 18", "18"),
        ("The answer is 18 km = 18000 m", "18"),
        ("The answer is 18 eggs - 2 more than before", "18"),
        ("\\boxed{18 \\frac{\\text{miles}}{\\text{hour}}}", "18"),
        # Separators, fractions, signs.
        ("\\boxed{$9{,}500}", "9500"),
        ("The answer is $9{,}500.", "9500"),
        ("#### 9\\,500", "9500"),
        ("#### 9,\\!500", "9500"),
        ("\\boxed{\\frac{3}{4}}", "0.75"),
        ("#### - 5", "-5"),
        ("\\boxed{- 5}", "-5"),
        ("Answer - 5", "5"),
        ("Answer: -5", "-5"),
        ("\\boxed{5\\sqrt{2}}", None),
        ("\\boxed{1/0} not 3", None),
        # Boxes without braces.
        ("$\\boxed 2$", "2"),
        ("$\\boxed\\frac{1}{2}$", "0.5"),
        ("\\fbox{2}", "2"),
        # The model continues with a next question.
        (f"#### 18{_NEXT}", "18"),
        (f"\\boxed{{18}}{_NEXT}", "18"),
        (f"The answer is 18.{_NEXT}", "18"),
        ("She has 18.\n\nQ: Tom has 3 cats.\nA: 3", "18"),
        ("#### 18\n\n**Question 2:** Tom has 3.\n#### 3", "18"),
        ("Question: She has 3 and gets 15.\nAnswer: 18\n#### 18", "18"),
        ("18\n\nQuestion: 3?\nAnswer: 7", "18"),
        ("She has 18.\n\nProblem: And 3?\n\\boxed{7}", "18"),
        # The number of a step in a list is not an answer.
        ("Answer:\n1. Add 2 and 3.\nIt is 5", "5"),
    ],
)
def test_a_marked_number_comes_first(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Fraction(number))


def test_hashes_take_the_last_line_and_a_colon() -> None:
    assert after_hashes("#### 1\n#### 1,042") == "1042"
    assert after_hashes("####: 55") == "55"
    assert after_hashes("none") is None
    assert after_hashes(f"#### 18{_NEXT}") == "18"


def test_boxes_are_balanced_and_the_last_complete_one_counts() -> None:
    assert last_boxed(r"\boxed{\frac{1}{2}} and \boxed{ x^{2} }") == "x^{2}"
    assert last_boxed(r"\boxed{1} \boxed{2") == "1"
    assert last_boxed(r"\boxed{a \boxed{b}}") == r"a \boxed{b}"
    assert last_boxed(r"\boxed{a \boxed 2}") == r"a \boxed 2"
    assert last_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed("{ \\boxed{3}") == "3"
    assert last_boxed("no box") is None
    assert last_boxed("\\boxed{18}\n\nQuestion: And 7?\n\\boxed{7}") == "18"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"it is $\boxed 2$.", "2"),
        (r"it is $\boxed 12.5$.", "12.5"),
        (r"it is $\boxed -3$.", "-3"),
        (r"it is $\boxed x$.", "x"),
        (r"it is $\boxed\frac{1}{2}$.", r"\frac{1}{2}"),
        (r"it is $\boxed\frac12$.", r"\frac12"),
        (r"it is $\boxed \sqrt{x_{1}}$.", r"\sqrt{x_{1}}"),
        (r"\boxed{1}, or $\boxed 2$", "2"),
        (r"\fbox{2}", "2"),
        (r"\fbox 2", "2"),
        (r"\boxedness 2", None),
    ],
)
def test_a_box_needs_no_braces(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "number"),
    [("131.", 131), ("1,234", 1234), ("-5", -5), ("10-7", 7), ("none", None), ("3 of 1.5", 3), ("9" * 5000, None)],
)
def test_the_last_whole_number(text: str, number: int | None) -> None:
    assert last_integer(text) == number


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.text("abc .,\n", max_size=20))
def test_a_number_in_its_own_words_is_found(number: int, before: str) -> None:
    assert final_number(f"{before} is {number:,}") == number
    assert last_integer(f"{before} is {number:,}") == number


@pytest.mark.parametrize(
    "bomb",
    [
        "\\boxed{" * 10**4,
        "{" * 10**5,
        "\\boxed{1}" * 10**4,
        "\\boxed\\frac{{}" * 10**4,
        "1," * 10**4,
        "####" * 10**4,
        "9" * 10**5,
        "1e" + "9" * 10**5,
        "\\frac{1}{" * 10**4,
        "answer is 3+4 " * 10**4,
        "\nQuestion: " * 10**4,
        "<<" * 10**4,
    ],
)
@pytest.mark.timeout(60)
def test_bombs_take_linear_time(bomb: str) -> None:
    """With quadratic time each of these would take hours."""
    final_number(bomb)
    last_integer(bomb)
