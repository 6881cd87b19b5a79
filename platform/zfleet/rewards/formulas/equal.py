"""Compare two formulas by math-verify, with its errors on small numbers and on numbers in a base corrected.

math-verify compares to six decimals, so that 10^-40 equals 10^-30, and reads 2516_7 as 2516.
Only the child process imports this module, because it imports SymPy.
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
"""Irrational numbers are compared to this many digits."""


@dataclass(frozen=True)
class Formulas:
    """The parses of two texts by math-verify: a formula and its text, or nothing.

    Attributes:
        gold: The parse of the reference.
        answer: The parse of the answer.
    """

    gold: Sequence[Any]
    answer: Sequence[Any]


def read_both(gold: str, answer: str, kinds: Sequence[str]) -> Formulas:
    """Parse a reference and an answer. If only the reference names a base, the answer is read in that base."""
    gold, answer = with_plain_bases(gold), with_plain_bases(answer)
    parsed = _read(answer, kinds)
    if parsed and has_base(str(parsed[-1])):
        return Formulas(_read(with_values(gold), kinds), _read(with_values(answer), kinds))
    return Formulas(_read(gold, kinds), parsed)


def equal(formulas: Formulas, decimals: int, sets: bool) -> bool:
    """Return whether two formulas are equal: exactly if both are exact, to ``decimals`` places if one is a decimal."""
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
    configs = [_CONFIGS[kind] for kind in kinds]
    # math-verify's own time limit needs signals, which work in a main thread only. The parent process has a clock.
    parsed: list[Any] = parse(text, configs, parsing_timeout=None)
    return parsed or parse(f"${text}$", configs, parsing_timeout=None)


_equal_in_decimals = grader.sympy_numeric_eq


def _equal_numbers(gold: Any, answer: Any, decimals: int, digits: int) -> bool:
    return _equal_in_decimals(gold, answer, decimals, digits) and not (
        isinstance(gold, Expr)
        and isinstance(answer, Expr)
        and _differ(grader.safe_sympy_doit(gold), grader.safe_sympy_doit(answer), decimals)
        # math-verify treats 9 % and 9 as equal.
        and _differ(grader.get_pct_val(gold, gold), grader.get_pct_val(answer, answer), decimals)
    )


grader.sympy_numeric_eq = _equal_numbers


def _differ(gold: Any, answer: Any, decimals: int) -> bool:
    """Return whether two formulas certainly have different values; variables are replaced by arbitrary numbers."""
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    numbers = {symbol: Rational(1009 + 2 * place, 701) for place, symbol in enumerate(symbols)}
    difference = gold.subs(numbers) - answer.subs(numbers)
    if not difference.is_number:
        return False
    if difference.has(Float):
        # A few decimals hold little of a small number, so as many significant digits are compared instead.
        largest = max(abs(gold.subs(numbers)).evalf(), abs(answer.subs(numbers)).evalf())
        small = largest < Rational(10) ** -(decimals // 2)
        return bool(small and abs(difference).evalf() > 5 * Rational(10) ** -decimals * largest)
    try:
        return bool(difference.evalf(5, maxn=_DIGITS, strict=True) != 0)
    except (PrecisionExhausted, NotImplementedError):
        exact = grader.safe_sympy_doit(difference)
        return bool(exact.is_Rational and exact != 0)
