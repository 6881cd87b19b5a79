"""Finding numbers in a text, with their exact values."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.rewards.numbers.extract import final_number
from zfleet.rewards.numbers.numerals import join_thousands, numerals, spelled


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("9,500", ["9500"]),
        (r"9{,}500", ["9500"]),
        (r"9\,500", ["9500"]),
        (r"9,\!500", ["9500"]),
        (r"9{,}\!500", ["9500"]),
        ("9\u2009500 and 9\u202f500\u202f000", ["9500", "9500000"]),
        ("9 500", ["9", "500"]),
        ("1,2345", ["1", "2345"]),
        ("1,234,5678", ["1234", "5678"]),
        ("1, 200", ["1", "200"]),
        ("1,234.50.", ["1234.5"]),
        (".5 and 007", ["0.5", "7"]),
        ("1e22", ["1" + "0" * 22]),
        ("1e-05, 1E+3", ["0.00001", "1000"]),
        (r"1.5 \times 10^{3}", ["1500"]),
        ("1.5x10^3, 1.5 * 10**3, 1.5·10³", ["1500", "1500", "1500"]),
        (r"2^{10}, 10^{-2}, 10⁻²", ["1024", "0.01", "0.01"]),
        ("3/4, 3 / 4", ["0.75", "0.75"]),
        (r"\frac{3}{4}, \dfrac34, \tfrac3{4}, \frac{-3}{4}", ["0.75", "0.75", "0.75", "-0.75"]),
        (r"{3 \over 4}", ["0.75"]),
        (r"2\frac{1}{2}, 2 1/2, 2½, -2\frac12", ["2.5", "2.5", "2.5", "-2.5"]),
        ("5 10/2", ["5", "5"]),
        ("⅓", ["1/3"]),
        ("-$5, $-5, -5, −5, –5, +5", ["-5", "-5", "-5", "-5", "-5", "5"]),
        ("10-7 and 10 - 7", ["10", "7", "10", "7"]),
        ("70% of 25 m^2", ["70", "25"]),
        ("答案是18元", ["18"]),
        ("_18_ and **18**", ["18", "18"]),
        (r"x2, x^2, x^{-2}, m_2, a_{12}, F1.5, cm²", []),
        (r"5\sqrt{2}, 3\pi, 1/0, 0.\overline{3}, 3\frac{5}{2}, 11_2, 11_{2}", [None] * 7),
        (r"\sqrt{16}, √16", []),
        ("1e999999999, 10^{10000}, 2^{-99999999999}", [None] * 3),
        ("9" * 5000, [None]),
        ("1/" + "9" * 5000, [None]),
    ],
)
def test_numbers_and_their_values(text: str, values: list[str | None]) -> None:
    assert [number.value for number in numerals(text)] == [
        None if value is None else Fraction(value) for value in values
    ]


def test_a_numeral_has_its_position_and_sign() -> None:
    text = "it is -$9{,}500.00 or 3"
    first, second = numerals(text)
    assert (text[first.start : first.end], first.signed) == ("-$9{,}500.00", True)
    assert (text[second.start : second.end], second.signed) == ("3", False)


def test_only_spaces_between_thousands_are_removed() -> None:
    assert join_thousands(r"9\,500, 1\ 000\ 000 and 1\,50 or (1,\,200) or x\,200") == (
        r"9500, 1000000 and 1\,50 or (1,\,200) or x\,200"
    )


@settings(deadline=None)
@given(st.fractions() | st.integers().map(Fraction) | st.decimals(-(10**9), 10**9, places=6).map(Fraction))
def test_a_spelled_value_is_read_as_the_same_value(value: Fraction) -> None:
    assert final_number(spelled(value)) == value


@settings(deadline=None, max_examples=50)
@given(st.integers(-(10**12), 10**12))
def test_a_number_written_in_many_ways_is_one_number(number: int) -> None:
    sign, size = "-" if number < 0 else "", abs(number)
    commas = f"{size:,}"
    ways = [
        f"{number}",
        f"{sign}{commas}",
        sign + commas.replace(",", "{,}"),
        sign + commas.replace(",", r"\,"),
        sign + commas.replace(",", r",\!"),
        sign + commas.replace(",", "\u2009"),
        f"{sign}${commas}.00",
        f"{sign}00{size}",
        f"{number}e0",
        f"{number}0e-1",
        rf"{number} \times 10^{{0}}",
        rf"{sign}\frac{{{2 * size}}}{{2}}",
        f"{3 * number}/3",
        rf"\textbf{{{number}}}",
        f"{number} apples",
    ]
    assert {final_number(f"#### {way}") for way in ways} == {Fraction(number)}
    assert {final_number(rf"So $\boxed{{{way}}}$.") for way in ways} == {Fraction(number)}
    assert {final_number(f"The answer is {way}.") for way in ways} == {Fraction(number)}


@settings(deadline=None)
@given(st.fractions(max_denominator=10**9), st.fractions(max_denominator=10**9))
def test_numbers_are_equal_exactly_if_their_values_are(first: Fraction, second: Fraction) -> None:
    numbers = [
        final_number(rf"\boxed{{\frac{{{value.numerator}}}{{{value.denominator}}}}}") for value in (first, second)
    ]
    assert (numbers[0] == numbers[1]) == (first == second)
