r"""Rewrite numbers in a base, such as ``2516_7``, for math-verify, which ignores the base."""

from __future__ import annotations

import re
from fractions import Fraction

_NAMES = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_WORDS = dict(zip(_NAMES.split(), range(2, 17), strict=True))
_BASE = rf"[0-9]{{1,2}}|{_NAMES.replace(' ', '|')}"
_TEXT = r"\\(?:text|math)[a-z]{0,6}\ ?\{"
_GROUPS = r"(?:\{,\}|\\[,;:! ]|,\\!)"
_IN_BASE = re.compile(
    rf"""
    (?<![A-Za-z0-9.\\_^])
    (?P<whole>[0-9A-F](?:{_GROUPS}?[0-9A-F]){{0,200}}+)(?:\.(?P<part>[0-9A-F]{{1,200}}+))?+
    \ ?_\ ?
    (?: (?P<digits>[0-9]{{1,2}})(?![0-9])
      | \{{\ ?(?P<braced>{_BASE})\ ?\}}
      | {_TEXT}\ ?(?P<named>{_BASE})\ ?\}}
      | \{{\ ?{_TEXT}\ ?(?P<nested>{_BASE})\ ?\}}\ ?\}}
    )
    """,
    re.VERBOSE,
)


def with_plain_bases(text: str) -> str:
    r"""Write every number in a base from 2 to 16 as ``2516_{7}``, without separators."""
    return _IN_BASE.sub(lambda match: _spelled(match, valued=False), text)


def with_values(text: str) -> str:
    r"""Write every number in a base in base ten: ``2516_{7}`` becomes ``944``."""
    return _IN_BASE.sub(lambda match: _spelled(match, valued=True), text)


def has_base(text: str) -> bool:
    """Return whether the text contains a number in a base."""
    return with_values(text) != text


def _spelled(match: re.Match[str], valued: bool) -> str:
    subscript = match["digits"] or match["braced"] or match["named"] or match["nested"]
    base = _WORDS.get(subscript) or int(subscript)
    whole, part = re.sub(_GROUPS, "", match["whole"]), match["part"] or ""
    digits = [int(digit, 16) for digit in whole + part]
    # "A_{12}" is a variable's name; a text with a digit that its base does not have is not a number.
    if not 2 <= base <= 16 or max(digits) >= base or (whole.isalpha() and len(whole) == 1 and not part):
        return match[0]
    if not valued:
        return f"{whole}{(match['part'] and '.') or ''}{part}_{{{base}}}"
    value = Fraction(int(whole + part, base), base ** len(part))
    return f"{value}" if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
