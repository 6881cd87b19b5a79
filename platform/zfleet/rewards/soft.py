"""The grader of questions that people answer differently: each accepted answer has a soft score, as in VQA."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from zfleet.rewards.text import ReferenceGrader
from zfleet.tasks.task import Grade, Sample
from zfleet.unique_keys import unique_keys

_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class Soft(ReferenceGrader):
    """Rewards twice the score of the completion's answer, minus 1: from -1, if nobody gave that answer, to +1.

    An answer counts as right (above 0) if its score is above one half. The reference is ``{answer: score}`` as JSON.
    """

    def check(self, reference: str) -> None:
        soft_scores(reference)

    def __call__(self, completion: str, sample: Sample) -> Grade:
        scores: dict[str, float] = {}
        for answer, score in soft_scores(self.reference(sample)).items():
            # An answer that is an article alone becomes empty, and would match a completion that says nothing.
            if key := plain_answer(answer):
                scores[key] = max(score, scores.get(key, 0.0))
        plain = plain_answer(completion)
        score = scores.get(plain, 0.0)
        best = max(scores, key=scores.__getitem__)
        reason = f"{plain!r} scores {score:g}, best is {best!r} with {scores[best]:g}"
        return Grade(2 * score - 1, plain or None, reason)


def soft_scores(reference: str) -> Mapping[str, float]:
    """Read answers and their scores from JSON.

    Raises:
        ValueError: It is not an object of answers, gives an answer twice, or has a score outside 0 to 1.
    """
    try:
        scores = json.loads(reference, object_pairs_hook=unique_keys)
    except RecursionError:
        scores = None
    if not isinstance(scores, dict) or not any(map(plain_answer, scores)):
        raise ValueError(f"{reference[:80]!r} is not a JSON object of answers and their scores")
    for answer, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"the score of {answer!r} is {score!r}: it must be a number from 0 to 1")
    return scores


def plain_answer(text: str) -> str:
    """Normalise a short answer: lower case, digits for small numbers, no punctuation and no articles.

    Source: the evaluation of VQA (visualqa.org/evaluation). One difference: apostrophes are removed everywhere.
    """
    joined = re.sub(r"(?<!\d)\.|\.(?!\d)|(?<=\d),(?=\d)|['’]", "", text.lower())
    words = re.sub(r"[^\w\s.:]", " ", joined).split()
    return " ".join(_DIGITS.get(word, word) for word in words if word not in _ARTICLES)
