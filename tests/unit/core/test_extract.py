"""What a text says its answer is."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfleet.rewards.extract import after_hashes, final_number, last_boxed, last_integer, last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("A: 18", "18"),
        ("so 2+3=5.", "5"),
        ("10-7", "7"),
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
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


def test_hashes_come_before_boxes_and_boxes_before_the_last_number() -> None:
    assert final_number("#### 4\nor \\boxed{5}, not 6") == 4
    assert final_number("\\boxed{5}, not 6") == 5
    assert final_number("#### none\n6") == 6


def test_hashes_take_the_last_line_and_a_colon() -> None:
    assert after_hashes("#### 1\n#### 1,042") == "1042"
    assert after_hashes("####: 55") == "55"
    assert after_hashes("none") is None


def test_boxes_are_balanced_and_the_last_complete_one_counts() -> None:
    assert last_boxed(r"\boxed{\frac{1}{2}} and \boxed{ x^{2} }") == "x^{2}"
    assert last_boxed(r"\boxed{1} \boxed{2") == "1"
    assert last_boxed(r"\boxed{a \boxed{b}}") == r"a \boxed{b}"
    assert last_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed("{ \\boxed{3}") == "3"
    assert last_boxed("no box") is None


@pytest.mark.parametrize(("text", "number"), [("131.", 131), ("1,234", 1234), ("-5", -5), ("10-7", 7), ("none", None)])
def test_the_last_whole_number(text: str, number: int | None) -> None:
    assert last_integer(text) == number


@given(st.integers(-(10**12), 10**12), st.text("abc .,\n", max_size=20))
def test_a_number_in_its_own_words_is_found(number: int, before: str) -> None:
    assert last_number(f"{before} is {number:,}") == number
    assert last_integer(f"{before} is {number:,}") == number


@pytest.mark.parametrize("bomb", ["\\boxed{" * 10**5, "{" * 10**6, "\\boxed{1}" * 10**5, "1," * 10**6, "####" * 10**5])
@pytest.mark.timeout(60)
def test_bombs_take_linear_time(bomb: str) -> None:
    """In quadratic time each would take hours."""
    final_number(bomb)
    last_integer(bomb)
