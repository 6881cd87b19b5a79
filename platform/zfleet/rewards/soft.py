"""The grader of questions that people answer differently: each answer has a soft score, as in VQA."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from zfleet.rewards.comparing import Comparing
from zfleet.tasks.task import Grade, Sample
from zfleet.unique_keys import unique_keys

_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class Soft(Comparing):
    """Twice the score of the completion's answer, less 1: from -1 for an answer that nobody gave to +1.

    Above 0, which is right, are answers with a score above one half. The reference is ``{answer: score}`` as JSON.
    """

    def check(self, reference: str) -> None:
        soft_scores(reference)

    def __call__(self, completion: str, sample: Sample) -> Grade:
        scores: dict[str, float] = {}
        for answer, score in soft_scores(self.reference(sample)).items():
            # Of an article alone nothing is left, as of an answer that says nothing.
            if key := plain_answer(answer):
                scores[key] = max(score, scores.get(key, 0.0))
        said = plain_answer(completion)
        score = scores.get(said, 0.0)
        best = max(scores, key=scores.__getitem__)
        return Grade(2 * score - 1, said or None, f"{said!r} scores {score:g}, best is {best!r} with {scores[best]:g}")


def soft_scores(reference: str) -> Mapping[str, float]:
    """Answers and their scores from JSON.

    Raises:
        ValueError: No object of answers, one that gives an answer twice, or a score outside 0 to 1.
    """
    try:
        scores = json.loads(reference, object_pairs_hook=unique_keys)
    except RecursionError:
        scores = None
    if not isinstance(scores, dict) or not any(map(plain_answer, scores)):
        raise ValueError(f"{reference[:80]!r} is no JSON object of answers and their scores")
    for answer, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"the score of {answer!r} is {score!r}, which is not from 0 to 1")
    return scores


def plain_answer(text: str) -> str:
    """A short answer without what does not count: case, punctuation, articles, words for small numbers.

    As the evaluation of VQA does (visualqa.org/evaluation), but for apostrophes, which are left out of both sides.
    """
    kept = re.sub(r"(?<!\d)\.|\.(?!\d)|(?<=\d),(?=\d)|['’]", "", text.lower())
    words = re.sub(r"[^\w\s.:]", " ", kept).split()
    return " ".join(_DIGITS.get(word, word) for word in words if word not in _ARTICLES)
