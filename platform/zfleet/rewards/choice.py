"""The grader of multiple-choice questions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from zfleet.rewards.comparing import Comparing
from zfleet.tasks.task import Grade, Sample, verdict

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
class Choice(Comparing):
    """Right if the completion settles on the reference's letter or number: see ``chosen_label``.

    Of references, ``B``, ``b``, ``(B)`` and ``B.`` are the same.
    """

    def __call__(self, completion: str, sample: Sample) -> Grade:
        label = chosen_label(completion)
        if label is None:
            return verdict(False, None, "it names no choice clearly")
        reference = _plain(self.reference(sample))
        return verdict(label == reference, label, f"it chooses {label}, right is {reference}")


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
