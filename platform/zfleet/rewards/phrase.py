"""Graders of short answers in words: one phrase, one of several options, or several words in an order.

All look at whole words and ignore case. A right answer gets +1.0 and a wrong one -1.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zfleet.rewards.text import ReferenceGrader
from zfleet.tasks.task import Grade, Sample, verdict

_AROUND = " \t\n\r.,:;!\"'“”‘’«»`*_()[]"
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

OPTIONS = "options"
"""The field with a row's options, separated by commas."""


@dataclass(frozen=True)
class Phrase(ReferenceGrader):
    """Right if the completion is the reference, apart from case, and from marks and blanks around it.

    ``Oslo``, ``oslo.`` and ``**Oslo**`` are the same answer; ``The city is Oslo`` is another one.
    """

    def __call__(self, completion: str, sample: Sample) -> Grade:
        answer, reference = _bare(completion), _bare(self.reference(sample))
        right = answer == reference
        return verdict(right, answer, "it is the reference" if right else f"it is not {reference!r}")

    def check(self, reference: str) -> None:
        if not _bare(reference):
            raise ValueError(f"{reference!r} holds no word: give the words of the right answer")


@dataclass(frozen=True)
class OneOf(ReferenceGrader):
    """Right if the completion names the reference and none of the row's other options.

    The options are those of the sample's field ``options``. "It is positive." chooses, "positive or negative" does not.
    """

    def __call__(self, completion: str, sample: Sample) -> Grade:
        options = [option.strip().casefold() for option in sample.fields[OPTIONS].split(",")]
        text = " ".join(_words(completion))
        named = [option for option in options if re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)]
        if len(named) != 1:
            return verdict(False, None, f"it names {len(named)} of the options, not one")
        reference = self.reference(sample).strip().casefold()
        return verdict(named[0] == reference, named[0], f"it chooses {named[0]}, right is {reference}")


@dataclass(frozen=True)
class InOrder(ReferenceGrader):
    """Right if the completion holds the reference's words, each once, in the reference's order.

    Other words, numbers and marks may stand around and between them: ``Ada, Max``, ``Ada and Max`` and a list with a
    line for each name are the same answer.
    """

    def __call__(self, completion: str, sample: Sample) -> Grade:
        wanted = _words(self.reference(sample))
        found = [word for word in _words(completion) if word in wanted]
        right = found == wanted
        reason = "it is in the reference's order" if right else f"the order of the reference is {', '.join(wanted)}"
        return verdict(right, ", ".join(found) or None, reason)

    def check(self, reference: str) -> None:
        words = _words(reference)
        if not words or len(set(words)) < len(words):
            raise ValueError(f"{reference!r} is not a list of different words")


def _bare(text: str) -> str:
    return " ".join(text.split()).strip(_AROUND).casefold()


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]
