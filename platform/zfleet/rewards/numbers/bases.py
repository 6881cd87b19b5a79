r"""Numbers in a base, as ``2516_7``: math-verify leaves the base out."""

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
    r"""A text in which every number in a base from 2 to 16 is written as ``2516_{7}``, without separators."""
    return _IN_BASE.sub(lambda found: _spelled(found, valued=False), text)


def with_values(text: str) -> str:
    r"""A text in which every number in a base is written in base ten: ``2516_{7}`` as ``944``."""
    return _IN_BASE.sub(lambda found: _spelled(found, valued=True), text)


def has_base(text: str) -> bool:
    """Whether a number in a base is in the text."""
    return with_values(text) != text


def _spelled(found: re.Match[str], valued: bool) -> str:
    named = found["digits"] or found["braced"] or found["named"] or found["nested"]
    base = _WORDS.get(named) or int(named)
    whole, part = re.sub(_GROUPS, "", found["whole"]), found["part"] or ""
    digits = [int(digit, 16) for digit in whole + part]
    # "A_{12}" is a name; a digit that the base does not have makes it no number.
    if not 2 <= base <= 16 or max(digits) >= base or (whole.isalpha() and len(whole) == 1 and not part):
        return found[0]
    if not valued:
        return f"{whole}{(found['part'] and '.') or ''}{part}_{{{base}}}"
    value = Fraction(int(whole + part, base), base ** len(part))
    return f"{value}" if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
