"""Graders of short answers in words: a phrase, or one of several options.

Both ignore case. A right answer gets +1.0 and a wrong one -1.0.
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


def _bare(text: str) -> str:
    return " ".join(text.split()).strip(_AROUND).casefold()


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]
