"""Two formulas are equal if their values are: exactly if both are exact, to six digits if one is a decimal."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from zfleet.rewards.formulas.grader import MathAnswer
from zfleet.rewards.numbers.bases import with_plain_bases, with_values
from zfleet.tasks.task import Sample

_GRADER = MathAnswer(seconds=60)


def _right(reference: str, answer: str) -> bool:
    return _GRADER(f"It is $\\boxed{{{answer}}}$.", Sample("1", "", reference)).right


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False),
        (r"\frac{1}{2004!}", r"\frac{2005}{2005!}", True),
        ("10^{-30}", "10^{-40}", False),
        ("10^{-30}", r"\frac{1}{10^{30}}", True),
        ("10^{-30}", "1e-30", True),
        ("10^{-30}", "0.0", False),
        ("e^{-50}", "e^{-51}", False),
        ("10^{600}+1", "(10^{300})^2", False),
        ("10^{-40}x", "10^{-30}x", False),
        ("10^{-40}x", r"\frac{x}{10^{40}}", True),
        ("(1, 10^{-40})", "(1, 10^{-30})", False),
        ("x = 10^{-20}", "x = 10^{-21}", False),
        ("[0, 10^{-20}]", "[0, 10^{-21}]", False),
        (r"\begin{pmatrix}10^{-20}\\1\end{pmatrix}", r"\begin{pmatrix}10^{-21}\\1\end{pmatrix}", False),
        (r"\sqrt{6}", r"\sqrt{2}\sqrt{3}", True),
        # One side is a decimal.
        (r"\frac{1}{3}", "0.333333", True),
        (r"\frac{1}{3}", "0.3333", False),
        (r"\frac{1}{12}", "0.083333", True),
        (r"\frac{\pi}{4}", "0.785398", True),
        ("10^{-8}", "0.00000001", True),
        ("10^{-8}", "0.00000002", False),
        ("0.0000001", "0.0000002", False),
        (r"28\%", "0.28", True),
        (r"28\%", "28", True),
        # Numbers in a base; an answer without a base is read in the reference's.
        ("2516_8", "2516_7", False),
        ("2516_8", r"2516_{\text{eight}}", True),
        ("2516_8", "2516", True),
        ("2516_8", "1358", False),
        ("2516_8", "1358_{10}", True),
        ("3", "11_2", True),
        ("11", "11_2", False),
        ("A1_{16}", "161_{10}", True),
        ("0.1_2", "0.2_4", True),
        ("x_2", "x_3", False),
        # Spellings.
        ("9500", r"9\,500", True),
        ("9500", r"\$9{,}500", True),
        ("1500", r"1.5 \times 10^{3}", True),
    ],
)
def test_formulas_are_the_same_if_their_values_are(reference: str, answer: str, right: bool) -> None:
    assert _right(reference, answer) == right


@pytest.mark.parametrize("completion", [r"$\boxed 2$", r"\fbox{2}", "\\boxed{2}\n\nQuestion: And 3?\n\\boxed{3}"])
def test_a_box_is_found_as_authors_write_it(completion: str) -> None:
    assert _GRADER(completion, Sample("1", "", "2")).right


def test_numbers_in_a_base_are_spelled_and_valued() -> None:
    text = r"2516_7, 1{,}110_{\text{two}}, AB_{16}, 0.1_{ 2 }, 8_7, A_{12}, x_2, 12_{99}"
    assert with_plain_bases(text) == "2516_{7}, 1110_{2}, AB_{16}, 0.1_{2}, 8_7, A_{12}, x_2, 12_{99}"
    assert with_values(text) == r"944, 14, 171, \frac{1}{2}, 8_7, A_{12}, x_2, 12_{99}"


def _exact(rng: random.Random) -> tuple[str, Fraction]:
    """Draw an exact expression and its value."""
    a, b, power = rng.randint(1, 999), rng.randint(2, 999), rng.randint(20, 90)
    match rng.randint(0, 5):
        case 0:
            return rf"\frac{{{a}}}{{{b}}}", Fraction(a, b)
        case 1:
            return f"{b}^{{-{power}}}", Fraction(1, b**power)
        case 2:
            return rf"{a} \times 10^{{-{power}}}", Fraction(a, 10**power)
        case 3:
            return rf"\frac{{1}}{{{power}!}}", Fraction(1, math.factorial(power))
        case 4:
            return f"{b}^{{{power}}} + {a}", Fraction(b**power + a)
        case _:
            return rf"1 + \frac{{{a}}}{{{b}^{{{power}}}}}", 1 + Fraction(a, b**power)


def _neighbour(value: Fraction, rng: random.Random) -> str:
    factor = rng.choice([Fraction(1 + 10**9, 10**9), Fraction(1, 10), 1 + value])
    other = value * factor + rng.choice([Fraction(0), value])
    return rf"\frac{{{other.numerator}}}{{{other.denominator}}}"


def test_unequal_exact_numbers_are_never_the_same() -> None:
    rng = random.Random(0)
    same = []
    for number in range(500):
        (formula, value), (other, other_value) = _exact(rng), _exact(rng)
        if number % 2 or value == other_value:
            other = _neighbour(value, rng)
        if _right(formula, other):
            same.append((formula, other))
        if number % 20 == 0:
            assert _right(formula, rf"\frac{{{value.numerator}}}{{{value.denominator}}}")
    assert not same
