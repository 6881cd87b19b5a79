"""The grader of multiple-choice questions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zfleet.rewards.numbers.extract import BOX, IS, STATED, own_answer
from zfleet.rewards.text import ReferenceGrader
from zfleet.tasks.task import Grade, Sample, verdict

_OPENING = r"(?:[\s$*_`(\[{\"'“‘]|\\(?:text|math)[a-z]{0,6}(?=\{)|\\(?:boxed|fbox)(?=\{)|\\[(\[]){0,16}+"
_NAMED = rf"{_OPENING}(?:(?i:option|choice|letter)\b{_OPENING})?+"
# A label ends at a bracket, at punctuation (not inside "3.5", "E.coli" or "A-level"), at the end of a line, or before a
# word that continues after an answer: "A because it floats" names A; "A student" and "I think" name no label.
_END = (
    r"(?=[ \t]+\(|[ \t]*(?:[)\]}$*_`\"”]|</|['’](?!\w)|\\[)\]]|\Z|\n|[;:,!?](?!\w)|\.(?!\w)|[-–—]+>?\s)"
    r"|[ \t]+(?:because|since|as|which|due|so|given|based|for|if|when|though|although|but|rather)\b)"
)
_FREE = r"(?<![A-Za-z0-9])(?<![A-Za-z0-9]['’])"
_CLOSED = rf"{_FREE}(?P<label>[A-Za-z]|[0-9]{{1,2}}){_END}"
_LABEL = rf"{_FREE}(?P<label>[B-HJ-Z](?![\w'’+]|[-.]\w| ?[=^])|(?:[A-Za-z]|[0-9]{{1,2}}){_END})"
_CHOSEN = (
    r"\bI(?:['’](?:d|ll)| would| will)? (?:choose|chose|pick|picked|select|selected|think|believe|guess|say|go with)\b"
    r"(?: (?:that|it is|it['’]s|the answer is)\b)*"
)
_MARKS = (
    re.compile(rf"(?i:{STATED}){_NAMED}{_LABEL}"),
    re.compile(rf"(?i:(?<!wrong )(?<!incorrect )\b(?:option|choice|letter)\b{IS}){_NAMED}{_LABEL}"),
    re.compile(rf"(?:(?i:\banswer\b)|{_CHOSEN}){_NAMED}{_CLOSED}"),
    re.compile(rf"{BOX}\s*\{{{_NAMED}{_CLOSED}"),
    re.compile(
        rf"(?<!\bor )(?<!nor )(?<!and ){_FREE}(?P<label>[A-Z])[)*_`]*[ \t]+(?i:is (?:the )?(?:correct|right|best)\b)"
    ),
)
_LEADING = re.compile(rf"\A{_NAMED}{_CLOSED}")
_LAST_LINE = re.compile(rf"\n{_NAMED}{_CLOSED}[^\w\n]*\Z")
_BRACKETED = re.compile(r"(?<!\w)\((?P<label>[A-Za-z]|[0-9]{1,2})\)")
_AFTER = r"[)\]}$*_`\"]{0,8}\s{0,4}"
_OR = r",?\s?\b(?:and/or|or|and|nor)\b|[/&]"
_OTHER = re.compile(
    rf"{_AFTER}(?:{_OR}|,)\s?{_NAMED}{_CLOSED}|{_AFTER}(?:{_OR})\s?{_NAMED}{_LABEL}".replace("?P<label>", "?:")
)
_LISTED = re.compile(r"^[ \t(*]*(?P<label>[A-Za-z]|[0-9]{1,2})[.):]", re.MULTILINE)


@dataclass(frozen=True)
class Choice(ReferenceGrader):
    """Right if the completion chooses the reference's letter or number: see ``chosen_label``.

    The references ``B``, ``b``, ``(B)`` and ``B.`` are the same.
    """

    def check(self, reference: str) -> None:
        if not re.fullmatch("[a-z]|[0-9]{1,2}", _plain(reference)):
            raise ValueError(f"{reference[:80]!r} is not a label: give one letter, or a number below 100")

    def __call__(self, completion: str, sample: Sample) -> Grade:
        label = chosen_label(completion)
        if label is None:
            return verdict(False, None, "it names no choice clearly")
        reference = _plain(self.reference(sample))
        return verdict(label == reference, label, f"it chooses {label}, right is {reference}")


def chosen_label(completion: str) -> str | None:
    """Return the label that a multiple-choice answer chooses, in lower case; None if no choice is clear.

    The first rule that finds a label decides:

    1. the last label that is stated ("The answer is B", "My choice: B", "I think B.", "B is correct", a LaTeX box);
    2. a label at the start of the completion ("B", "(b)", "B. a dog"), unless it lists all choices;
    3. a label alone on the last line;
    4. the last label in round brackets.

    "A or B" chooses none.
    """
    ends = [mark.end() for rule in (*_MARKS, _LEADING) if (mark := rule.search(completion))]
    bracketed = _BRACKETED.search(completion)
    text = own_answer(completion, min(ends) if ends else bracketed.end() if bracketed else 0)
    marks = [mark for rule in _MARKS for mark in rule.finditer(text)]
    if marks:
        return _settled(text, marks)
    leading = _LEADING.search(text)
    if leading and len({listed["label"] for listed in _LISTED.finditer(text)}) < 2:
        return _settled(text, [leading])
    if alone := _LAST_LINE.search(text.rstrip()):
        return _plain(alone["label"])
    return _last_bracketed(text)


def _settled(text: str, marks: Sequence[re.Match[str]]) -> str | None:
    last = max(marks, key=lambda mark: mark.end("label"))
    others = (_OTHER.match(text, mark.end("label")) for mark in marks)
    undecided = any(other and other.end() >= last.end("label") for other in others)
    return None if undecided else _plain(last["label"])


def _last_bracketed(text: str) -> str | None:
    label, behind = None, 0
    for bracketed in _BRACKETED.finditer(text):
        other = _OTHER.match(text, bracketed.end("label"))
        if other:
            label, behind = None, other.end()
        elif bracketed.start() >= behind:
            label = _plain(bracketed["label"])
    return label


def _plain(label: str) -> str:
    return label.strip(" \t\n().:[]").lower()
