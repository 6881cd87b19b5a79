r"""Extract the answer from a text: after ``####``, in ``\boxed{}``, stated in words, or the last number.

docs/tasks.md gives the rules in words. Every function takes time linear in the text.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

from zfleet.rewards.numbers.numerals import Numeral, numeral_at, numerals

IS = r"[\s*_`]{0,4}(?:(?:is|was|(?:would|should|must|will)\s+be|=|:|[-=]>|→|[-–—](?=[\s*_]))[\s*_`:]{0,8})++"
"""Matches between a word such as "answer" and its value: "is", a colon, a dash or an arrow, also in bold."""
BOX = r"\\(?:boxed|fbox)(?![A-Za-z])"
_HEDGE = (
    r"(?:(?:most likely|likely|probably|clearly|obviously|definitely|indeed|therefore|thus|simply|actually"
    r"|approximately|about|around|roughly|exactly) )?"
)
STATED = (
    rf"(?:(?<!wrong )(?<!incorrect )\banswer\b(?: to (?:the|this) (?:question|problem))?(?: here)?{IS}{_HEDGE}"
    r"|<answer>\s{0,4})"
)
"""Matches the words that state an answer, such as "The answer is", "**Final Answer** -" and "<answer>".

Compile it with ``(?i:)``: case does not matter.
"""

_STATED = re.compile(rf"(?i:{STATED})[\s$*_`({{\[]{{0,8}}(?:\\(?:text|math)[a-z]{{0,6}}\{{|\\[(\[])?[\s*]{{0,4}}")
_BARE = r"[-+−]?[0-9](?:[0-9.,]*[0-9])?|\\[A-Za-z]+(?:\s?(?:\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\}|[0-9]))*+|[A-Za-z]\b"
_BRACE = re.compile(rf"(?P<box>{BOX}\s*\{{)|{BOX}\s*(?P<bare>{_BARE})|\\[{{}}\\]|(?P<open>\{{)|(?P<close>\}})")
_HASHES = re.compile(r"####[ \t]*:?[ \t]*(.*)")
_MARK = re.compile(rf"####|{BOX}|(?i:{STATED})")
_NEXT_QUESTION = re.compile(r"^[ \t#*]{0,8}(?i:question|problem|q)\b[ \t]*[0-9]{0,4}[ \t*]{0,4}:", re.MULTILINE)
_ITEM = re.compile(r"[.)][ \t]")
_WORKING = re.compile(r"<<[^<>\n]*>>")
_SPACED_SIGN = re.compile(r"\A([\s$*_({]*[-−–])[ \t]+(?=[0-9.$\\])")
_OPERATOR = re.compile(r"[ )\]}$]*(?:[-+−–*/×÷·xX]|\*\*|\\(?:times|cdot|div))[ (\[{$]*")
_EQUALS = re.compile(r"[ )\]}$*]*(?:=|≈|\\approx)[ (\[{$*]*")
_UNIT = re.compile(
    r"(?:[ )\]}$]*(?:\\?%|\(s\)|(?![xX]\b)[A-Za-z]{1,20}(?:/[A-Za-z]{1,20})?)){1,3}(?=[ )\]}$*]*(?:[-+−–*/×÷·xX=≈]|\\))"
)


def own_answer(text: str, start: int | None = None) -> str:
    """Cut a completion before the next question that the model asks itself and answers.

    Args:
        text: The completion.
        start: A line after this position that begins with "Question:" ends the answer. By default, the end of the
            first mark of an answer: ``####``, a box, or "The answer is".
    """
    if start is None:
        mark = _MARK.search(text)
        if mark is None:
            return text
        start = mark.end()
    question = _NEXT_QUESTION.search(text, start)
    return text[: question.start()] if question else text


def after_hashes(text: str) -> str | None:
    """Return the text after the last ``####`` on its line, where GSM8K writes its answers; commas are removed."""
    lines = _HASHES.findall(own_answer(text))
    return lines[-1].replace(",", "").strip() or None if lines else None


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last complete ``\boxed{}`` or ``\fbox{}``; the outermost if boxes are nested.

    A box without braces holds what TeX would put into it: the number, the letter, or the command with its arguments
    that follows (``\boxed 12``, ``\boxed\frac{1}{2}``).
    """
    text = own_answer(text)
    opened: list[tuple[bool, int]] = []
    boxes: list[tuple[int, int]] = []
    for brace in _BRACE.finditer(text):
        if brace["bare"]:
            boxes.append(brace.span("bare"))
        elif brace["box"] or brace["open"]:
            opened.append((brace["box"] is not None, brace.end()))
        elif brace["close"] and opened:
            box, start = opened.pop()
            if box:
                while boxes and boxes[-1][0] > start:
                    boxes.pop()
                boxes.append((start, brace.start()))
    return text[slice(*boxes[-1])].strip() if boxes else None


def last_integer(text: str) -> int | None:
    """Return the last whole number of a text; None also if a number without a value, such as 1/0, comes after it."""
    for numeral in reversed(list(numerals(text))):
        if (value := numeral.value) is None:
            return None
        if value.denominator == 1:
            return value.numerator
    return None


def final_number(text: str) -> Fraction | None:
    r"""Return the number that a completion gives as its answer; None also if it has no value, such as 1/0.

    The first of these that exists decides: the number after the last ``####``, the number in the last box, the number
    after the last "The answer is", the last number of the text. After a mark the first number counts; in an equation,
    the last side that is a single number.
    """
    text = own_answer(_WORKING.sub("", text))
    question, mark = _NEXT_QUESTION.search(text), _MARK.search(text)
    if mark is None or (question and question.start() < mark.start()):
        # The mark of the next question's answer says nothing of this one.
        first = next(numerals(text), None)
        text = own_answer(text, first.end) if first else text
    numeral = next(_marked(text), None) or _last(numerals(text))
    return numeral.value if numeral else None


def _marked(text: str) -> Iterator[Numeral]:
    """Yield the numbers at marks of an answer, in the order in which the marks take precedence."""
    for line in reversed(_HASHES.findall(text)):
        if numeral := _first(line):
            yield numeral
    if (boxed := last_boxed(text)) and (numeral := _first(boxed)):
        yield numeral
    for stated in reversed(list(_STATED.finditer(text))):
        first = numeral_at(text, stated.end())
        if first is None or ("\n" in stated[0] and _ITEM.match(text, first.end)):
            continue  # "Answer:" may be followed by a list of steps, whose first number is not an answer.
        if numeral := _of_equation(text, first):
            yield numeral


def _first(part: str) -> Numeral | None:
    part = _SPACED_SIGN.sub(r"\1", part)
    numeral = next(numerals(part), None)
    return _of_equation(part, numeral) if numeral else None


def _of_equation(text: str, first: Numeral) -> Numeral | None:
    """Return the last side of an equation that is a single number; None if no side is. ``first`` begins the equation.

    A sum that is worked out may have units: ``3 boxes * 6 apples/box = 18``. ``18 km = 18000 m`` gives 18.
    """
    return _worked_out(text, first) or _side(text, first)


def _worked_out(text: str, first: Numeral) -> Numeral | None:
    """Return the result of a sum that has units between its numbers."""
    count, before = 1, first
    for numeral in numerals(text, first.end):
        unit = _UNIT.match(text, before.end, numeral.start)
        between = text[unit.end() if unit else before.end : numeral.start]
        if count > 1 and _EQUALS.fullmatch(between):
            return _side(text, numeral)
        if not _OPERATOR.fullmatch(between):
            return None
        count, before = count + 1, numeral
    return None


def _side(text: str, first: Numeral) -> Numeral | None:
    last, side, before = None, [first], first
    for numeral in numerals(text, first.end):
        between = text[before.end : numeral.start]
        if _EQUALS.fullmatch(between):
            last, side = side[0] if len(side) == 1 else last, [numeral]
        elif _OPERATOR.fullmatch(between) or (numeral.signed and not between.strip(" ")):
            side.append(numeral)
        else:
            break
        before = numeral
    return side[0] if len(side) == 1 else last


def _last(numbers: Iterator[Numeral]) -> Numeral | None:
    last = deque(numbers, maxlen=1)
    return last[0] if last else None
