r"""Find the numbers in a text, each with its exact value, in linear time. docs/tasks.md gives the grammar in words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 500
"""The most digits of a number, and of a power of ten. A longer number has no value, so that no text takes hours."""

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
    """A number as the text spells it.

    Attributes:
        match: The match of ``_NUMBER``, whose groups are the number's parts.
        end: The position in the text after the number.
    """

    match: re.Match[str]
    end: int

    @property
    def start(self) -> int:
        """The position in the text at which the number begins, with its sign and currency."""
        return self.match.start()

    @property
    def signed(self) -> bool:
        """Whether the number begins with a sign."""
        return self.match["sign"] is not None

    @property
    def value(self) -> Fraction | None:
        """The exact value; None for a formula (``5\\sqrt{2}``, ``11_2``), a division by zero, or too many digits."""
        whole = self.end == self.match.end()
        if whole and self.match["formula"]:
            return None
        value = _value(self.match) if whole else _decimal(self.match["plain"])
        negative = (self.match["sign"] in _NEGATIVE) != (self.match["inner"] in _NEGATIVE)
        return -value if negative and value is not None else value


def numerals(text: str, start: int = 0) -> Iterator[Numeral]:
    """Yield the numbers of a text, in order."""
    while match := _NUMBER.search(text, start):
        numeral = _read(match)
        start = numeral.end
        yield numeral


def numeral_at(text: str, start: int) -> Numeral | None:
    """Return the number that begins at this position; None if none does."""
    match = _NUMBER.match(text, start)
    return _read(match) if match else None


def join_thousands(text: str) -> str:
    r"""Remove spaces, LaTeX's included, between groups of thousands: ``9\,500`` becomes ``9500``; ``1,\,200`` stays."""
    return _SPACED.sub(lambda match: _SPACE.sub("", match[0]), text)


def spelled(value: Fraction) -> str:
    """Write a value as people do: a whole number, a decimal of up to thirty places, otherwise a fraction."""
    for places in range(31):
        if 10**places % value.denominator == 0:
            digits = str(abs(value.numerator) * (10**places // value.denominator)).rjust(places + 1, "0")
            whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
            return ("-" if value < 0 else "") + whole + (f".{part}" if part else "")
    return f"{value.numerator}/{value.denominator}"


def _read(match: re.Match[str]) -> Numeral:
    mixed = match["mixed"]
    # "5 10/2" is two numbers side by side.
    apart = mixed and "/" in mixed and not 0 < (_fraction(mixed) or 0) < 1
    return Numeral(match, match.end("plain") if apart else match.end())


def _value(match: re.Match[str]) -> Fraction | None:
    if match["fraction"]:
        return _fraction(match["fraction"])
    value = _decimal(match["plain"])
    if value is None:
        return None
    if match["mixed"]:
        part = _fraction(match["mixed"])
        return value + part if part is not None and 0 < part < 1 else None
    if match["under"]:
        return _over(value, _decimal(match["under"]))
    if match["power"]:
        return _to_the(value, match["power"])
    ten = match["exponent"] or match["ten"]
    power = _to_the(Fraction(10), ten) if ten else Fraction(1)
    return None if power is None else value * power


def _decimal(spelling: str) -> Fraction | None:
    plain = _BETWEEN.sub("", spelling).replace("−", "-").replace("–", "-")
    return Fraction(plain) if len(plain) <= _LONGEST else None


def _fraction(spelling: str) -> Fraction | None:
    r"""Return the value of ``\frac{3}{4}``, ``\frac34``, ``3/4`` or ``¾``."""
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
