"""Whether two formulas are the same, as math-verify says, but for small numbers and numbers in a base.

math-verify compares to six decimals and drops what is smaller, so that 10^-40 equals 10^-30, and reads 2516_7 as 2516.
Only the process that compares imports this: it brings SymPy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, grader, parse, verify
from sympy import Expr, Float, Rational
from sympy.core.evalf import PrecisionExhausted

from zfleet.rewards.numbers.bases import has_base, with_plain_bases, with_values
from zfleet.rewards.numbers.numerals import join_thousands

_CONFIGS = {
    "latex": LatexExtractionConfig(boxed_match_priority=0),
    "expr": ExprExtractionConfig(),
    "string": StringExtractionConfig(),
}
_EXPONENT = re.compile(r"(?<![A-Za-z0-9\\])([0-9]+(?:\.[0-9]+)?|\.[0-9]+)[eE]([-+]?[0-9]{1,5})(?![A-Za-z0-9.^])")
_DIGITS = 400
"""To how many digits numbers that are no fractions are compared."""


@dataclass(frozen=True)
class Formulas:
    """Two formulas as math-verify reads them.

    Attributes:
        gold: Of the reference, what was found: a formula and its text, or nothing.
        answer: Of the answer.
    """

    gold: Sequence[Any]
    answer: Sequence[Any]


def read_both(gold: str, answer: str, kinds: Sequence[str]) -> Formulas:
    """Read a reference and an answer. An answer without a base beside a reference with one is read in that base."""
    gold, answer = with_plain_bases(gold), with_plain_bases(answer)
    found = _read(answer, kinds)
    if found and has_base(str(found[-1])):
        return Formulas(_read(with_values(gold), kinds), _read(with_values(answer), kinds))
    return Formulas(_read(gold, kinds), found)


def equal(formulas: Formulas, decimals: int, sets: bool) -> bool:
    """Whether they are the same: exactly where both are exact, to so many decimals where one is a decimal."""
    return bool(
        verify(
            list(formulas.gold),
            list(formulas.answer),
            float_rounding=decimals,
            allow_set_relation_comp=sets,
            timeout_seconds=None,
        )
    )


def _read(text: str, kinds: Sequence[str]) -> Sequence[Any]:
    text = _EXPONENT.sub(r"\1 \\times 10^{\2}", join_thousands(text.replace("\\fbox", "\\boxed")))
    wanted = [_CONFIGS[kind] for kind in kinds]
    # Limits of its own would need signals, which only a main thread gets; whoever asks has a clock.
    found: list[Any] = parse(text, wanted, parsing_timeout=None)
    return found or parse(f"${text}$", wanted, parsing_timeout=None)


_equal_in_decimals = grader.sympy_numeric_eq


def _equal_numbers(gold: Any, answer: Any, decimals: int, digits: int) -> bool:
    return _equal_in_decimals(gold, answer, decimals, digits) and not (
        isinstance(gold, Expr)
        and isinstance(answer, Expr)
        and _differ(grader.safe_sympy_doit(gold), grader.safe_sympy_doit(answer), decimals)
        # 9 % and 9 are the same to math-verify.
        and _differ(grader.get_pct_val(gold, gold), grader.get_pct_val(answer, answer), decimals)
    )


grader.sympy_numeric_eq = _equal_numbers


def _differ(gold: Any, answer: Any, decimals: int) -> bool:
    """Whether two formulas surely have different values, with any numbers for their variables."""
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    numbers = {symbol: Rational(1009 + 2 * place, 701) for place, symbol in enumerate(symbols)}
    difference = gold.subs(numbers) - answer.subs(numbers)
    if not difference.is_number:
        return False
    if difference.has(Float):
        # So few decimals say little of a small number: that many significant digits are compared.
        largest = max(abs(gold.subs(numbers)).evalf(), abs(answer.subs(numbers)).evalf())
        small = largest < Rational(10) ** -(decimals // 2)
        return bool(small and abs(difference).evalf() > 5 * Rational(10) ** -decimals * largest)
    try:
        return bool(difference.evalf(5, maxn=_DIGITS, strict=True) != 0)
    except (PrecisionExhausted, NotImplementedError):
        exact = grader.safe_sympy_doit(difference)
        return bool(exact.is_Rational and exact != 0)
