r"""Numbers in a text, each with its exact value. docs/tasks.md gives the grammar in words; all takes linear time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 500
"""Digits of a number, and of a power of ten: a longer one has no value here, so that no text can take hours."""

_SEPARATOR = r"(?:,(?:\\!)?|\{,\}(?:\\!)?|\\[,:;! ]|[\u00a0\u2009\u202f])"
_WHOLE = rf"(?:[0-9]{{1,3}}(?:{_SEPARATOR}[0-9]{{3}}(?![0-9]))++|[0-9]++)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]++)?+|\.[0-9]++)"
_SIGN = "[-−–+]"
_ARGUMENT = rf"(?:\{{ ?{_SIGN}?{_DECIMAL} ?\}}|[0-9])"
_FRACTION = rf"(?:\\[dtc]?frac ?{_ARGUMENT} ?{_ARGUMENT}|[¼½¾⅐-⅞])".replace(" ", r"\ ")
_POWER = rf"(?: ?(?:\^|\*\*) ?(?:\{{ ?{_SIGN}?[0-9]++ ?\}}|{_SIGN}?[0-9]++)|[⁻⁺]?[⁰¹²³⁴-⁹]++)".replace(" ", r"\ ")
_NUMBER = re.compile(
    rf"""
    (?: (?<![A-Za-z0-9.)\]}}])(?P<sign>{_SIGN}) )?+
    (?: \\?[$€£¥₹]\ ?(?P<inner>{_SIGN})?+ )?+
    (?:
      (?<![A-Za-z0-9^√])(?<![0-9]\.)(?!(?<=\.)\.)(?<![A-Za-z0-9)\]}}]_)(?<![\^_]\{{)(?<!\^[-−])(?<!\^\{{[-−])(?<!sqrt\{{)
      (?P<plain>{_DECIMAL})
      (?:
        (?P<mixed>(?:\\[,;:\ ]|\ )?{_FRACTION}|\ [0-9]++/[0-9]++(?!/?[0-9]))
        | \ ?(?:/|\\over\b)\ ?(?P<under>{_DECIMAL})(?!/)
        | [eE](?P<exponent>{_SIGN}?[0-9]++)(?![A-Za-z])
        | \ ?(?:\\times|\\cdot|[×·*xX])\ ?10(?P<ten>{_POWER})
        | (?P<power>{_POWER})
      )?+
      | (?P<fraction>{_FRACTION})
    )
    (?P<formula>
      \ ?(?:\\(?:cdot|times)\ ?)?(?:\\(?:sqrt|pi)\b|\\frac\b(?!\s*\{{\s*\\(?:text|math|mbox))|[√π])
      | \.?\\overline\{{[0-9]++\}} | _(?:[0-9]|\{{)[0-9]*+
    )?+
    """,
    re.VERBOSE,
)
_NEGATIVE = frozenset("-−–")
_PIECE = re.compile(rf"{_SIGN}?{_DECIMAL}")
_BETWEEN = re.compile(_SEPARATOR)
_SPACE = re.compile(r"\\[,:;! ]|[\u00a0\u2009\u202f]")
_SPACED = re.compile(rf"(?<![0-9A-Za-z.])[0-9]{{1,3}}(?:(?:{_SPACE.pattern})[0-9]{{3}}(?![0-9]))++")


@dataclass(frozen=True)
class Numeral:
    """A number as a text spells it.

    Attributes:
        found: Its parts.
        end: Where it ends in the text.
    """

    found: re.Match[str]
    end: int

    @property
    def start(self) -> int:
        """Where it begins in the text, with its sign and currency."""
        return self.found.start()

    @property
    def signed(self) -> bool:
        """Whether it begins with a sign."""
        return self.found["sign"] is not None

    @property
    def value(self) -> Fraction | None:
        """The exact value; None for a formula (``5\\sqrt{2}``, ``11_2``), a division by zero, or too many digits."""
        whole = self.end == self.found.end()
        if whole and self.found["formula"]:
            return None
        value = _value(self.found) if whole else _decimal(self.found["plain"])
        negative = (self.found["sign"] in _NEGATIVE) != (self.found["inner"] in _NEGATIVE)
        return -value if negative and value is not None else value


def numerals(text: str, start: int = 0) -> Iterator[Numeral]:
    """The numbers of a text, in their order."""
    while found := _NUMBER.search(text, start):
        numeral = _read(found)
        start = numeral.end
        yield numeral


def numeral_at(text: str, start: int) -> Numeral | None:
    """The number that begins at this place; None where none does."""
    found = _NUMBER.match(text, start)
    return _read(found) if found else None


def join_thousands(text: str) -> str:
    r"""A text without spaces, also LaTeX's, between thousands: ``9\,500`` becomes ``9500``; ``1,\,200`` stays."""
    return _SPACED.sub(lambda found: _SPACE.sub("", found[0]), text)


def spelled(value: Fraction) -> str:
    """A value as people write it: a whole number, a decimal of up to thirty places, else a fraction."""
    for places in range(31):
        if 10**places % value.denominator == 0:
            digits = str(abs(value.numerator) * (10**places // value.denominator)).rjust(places + 1, "0")
            whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
            return ("-" if value < 0 else "") + whole + (f".{part}" if part else "")
    return f"{value.numerator}/{value.denominator}"


def _read(found: re.Match[str]) -> Numeral:
    mixed = found["mixed"]
    # "5 10/2" are two numbers side by side.
    apart = mixed and "/" in mixed and not 0 < (_fraction(mixed) or 0) < 1
    return Numeral(found, found.end("plain") if apart else found.end())


def _value(found: re.Match[str]) -> Fraction | None:
    if found["fraction"]:
        return _fraction(found["fraction"])
    value = _decimal(found["plain"])
    if value is None:
        return None
    if found["mixed"]:
        part = _fraction(found["mixed"])
        return value + part if part is not None and 0 < part < 1 else None
    if found["under"]:
        return _over(value, _decimal(found["under"]))
    if found["power"]:
        return _to_the(value, found["power"])
    ten = found["exponent"] or found["ten"]
    power = _to_the(Fraction(10), ten) if ten else Fraction(1)
    return None if power is None else value * power


def _decimal(spelling: str) -> Fraction | None:
    plain = _BETWEEN.sub("", spelling).replace("−", "-").replace("–", "-")
    return Fraction(plain) if len(plain) <= _LONGEST else None


def _fraction(spelling: str) -> Fraction | None:
    r"""``\frac{3}{4}``, ``\frac34``, ``3/4`` or ``¾``."""
    last = spelling[-1]
    if not last.isascii():
        return Fraction(unicodedata.numeric(last)).limit_denominator(10)
    if "frac" in spelling and "{" not in spelling:
        upper, lower = (character for character in spelling if character.isdigit())
    else:
        upper, lower = _arguments(spelling)
    return _over(_decimal(upper), _decimal(lower))


def _arguments(spelling: str) -> tuple[str, str]:
    upper, lower = (piece[0] for piece in _PIECE.finditer(spelling))
    return upper, lower


def _over(upper: Fraction | None, lower: Fraction | None) -> Fraction | None:
    return upper / lower if upper is not None and lower else None


def _to_the(base: Fraction, spelling: str) -> Fraction | None:
    digits = unicodedata.normalize("NFKC", spelling).strip("^*{ }").replace("−", "-").replace("–", "-")
    if len(digits) > len(str(_LONGEST)) + 1:
        return None
    exponent = int(digits)
    size = max(len(str(base.numerator)), len(str(base.denominator)))
    if abs(exponent) * size > 2 * _LONGEST or (exponent < 0 and not base):
        return None
    return base**exponent
