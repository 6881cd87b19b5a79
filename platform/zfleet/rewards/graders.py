"""Graders: functions of a completion and its sample that give +1.0 (right) or -1.0 (wrong)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from zfleet.tasks.task import Sample

# A capital letter that stands alone, a small one that ends its line or is followed by punctuation
# ("a dog" is no answer A), or a number of up to two digits that is not the start of a decimal.
_LABEL = r"(?P<label>[A-Z]\b(?!['’])|[a-z](?=[^\w\s'’]|\s*$)|\d{1,2}\b(?!\.\d))"
_OPENING = r"[\s*_`(\[{\"']*"
_STATED = re.compile(
    rf"(?i:\banswer\b{_OPENING}(?:is\b)?\s*[:=]?{_OPENING}(?:option\b|choice\b)?)(?:\\boxed)?{_OPENING}{_LABEL}",
    re.MULTILINE,
)
_LEADING = re.compile(rf"\A{_OPENING}{_LABEL}(?=[^\w\s]|\s*$)", re.MULTILINE)
_BRACKETED = re.compile(r"(?:\(|\\boxed\{)(?P<label>[A-Za-z]|\d{1,2})(?:\)|\})")


@dataclass(frozen=True)
class Exact:
    """Right if the completion is the reference, spaces around both aside.

    Attributes:
        value: The reference; empty: the sample's answer.
    """

    value: str = ""

    def __call__(self, completion: str, sample: Sample) -> float:
        return _grade(completion.strip() == (self.value or sample.answer).strip())


@dataclass(frozen=True)
class Contains:
    """Right if the reference occurs in the completion, letter for letter; parts of words count.

    Attributes:
        value: The reference; empty: the sample's answer.
    """

    value: str = ""

    def __call__(self, completion: str, sample: Sample) -> float:
        return _grade((self.value or sample.answer) in completion)


@dataclass(frozen=True)
class Regex:
    """Right if the pattern is found anywhere in the completion.

    Attributes:
        value: A pattern of Python's ``re``; flags go inside, as ``(?i)``.
    """

    value: str

    def __call__(self, completion: str, sample: Sample) -> float:
        return _grade(re.search(self.value, completion) is not None)


@dataclass(frozen=True)
class Choice:
    """Right if the completion settles on the reference's letter or number: see ``chosen_label``.

    Attributes:
        value: The right label; empty: the sample's answer. ``B``, ``b``, ``(B)`` and ``B.`` are the same.
    """

    value: str = ""

    def __call__(self, completion: str, sample: Sample) -> float:
        label = chosen_label(completion)
        return _grade(label is not None and label == _plain(self.value or sample.answer))


def chosen_label(completion: str) -> str | None:
    """The label of a multiple-choice answer in lower case, or None if the completion names none clearly.

    The first rule that finds one decides: the last "answer is B" or "Answer: B"; a label the completion
    starts with ("B", "(b)", "B. a dog"); the last one in brackets or in a LaTeX box.
    """
    stated = [match["label"] for match in _STATED.finditer(completion)]
    if stated:
        return _plain(stated[-1])
    if leading := _LEADING.search(completion):
        return _plain(leading["label"])
    bracketed = [match["label"] for match in _BRACKETED.finditer(completion)]
    return _plain(bracketed[-1]) if bracketed else None


def _plain(label: str) -> str:
    return label.strip(" \t\n().:[]").lower()


def _grade(right: bool) -> float:
    return 1.0 if right else -1.0
