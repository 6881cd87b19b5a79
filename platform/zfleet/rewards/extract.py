r"""What a text says its answer is: after ``####``, in ``\boxed{}``, or its last number. All take linear time."""

from __future__ import annotations

import re
from collections import deque
from decimal import Decimal

_NUMBER = re.compile(
    r"""(?<![\w.])                                   # no part of a word or of a longer number
    (?P<sign>[-−–]\s?)?
    (?:[$€£¥]\s?)?
    (?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
    """,
    re.VERBOSE,
)
_INTEGER = re.compile(r"(?:(?<![\w.)])[-−])?(?<![\d.,])(?:\d{1,3}(?:,\d{3})+|\d+)(?!,?\d)(?!\.\d)")
_BRACE = re.compile(r"(?P<box>\\f?boxed\s*\{)|\\[{}\\]|(?P<open>\{)|(?P<close>\})")
_HASHES = re.compile(r"####[ \t]*:?[ \t]*(.*)")


def after_hashes(text: str) -> str | None:
    """What follows the last ``####`` on its line, as GSM8K writes its answers; commas are left out."""
    found = _HASHES.findall(text)
    return found[-1].replace(",", "").strip() or None if found else None


def last_boxed(text: str) -> str | None:
    r"""What the last complete ``\boxed{}`` holds, of nested ones the outermost."""
    opened: list[tuple[bool, int]] = []
    boxes: list[tuple[int, int]] = []
    for brace in _BRACE.finditer(text):
        if brace["box"] or brace["open"]:
            opened.append((brace["box"] is not None, brace.end()))
        elif brace["close"] and opened:
            box, start = opened.pop()
            if box:
                while boxes and boxes[-1][0] > start:
                    boxes.pop()
                boxes.append((start, brace.start()))
    return text[slice(*boxes[-1])].strip() if boxes else None


def last_number(text: str) -> Decimal | None:
    """The last number of a text, thousands separators, currencies and an ending stop aside."""
    last: deque[re.Match[str]] = deque(_NUMBER.finditer(text), maxlen=1)
    if not last:
        return None
    number = Decimal(last[0]["digits"].replace(",", ""))
    return -number if last[0]["sign"] else number


def last_integer(text: str) -> int | None:
    """The last whole number of a text."""
    found = _INTEGER.findall(text)
    return int(found[-1].replace(",", "").replace("−", "-")) if found else None


def final_number(text: str) -> Decimal | None:
    r"""The number a completion ends with: after ``####`` if it has that, else in its last box, else its last."""
    for part in (after_hashes(text), last_boxed(text)):
        if part is not None and (number := last_number(part)) is not None:
            return number
    return last_number(text)
