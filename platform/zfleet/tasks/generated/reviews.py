"""Reviews, of which half change their mind in the middle: did the writer like it? The answer is one word."""

from __future__ import annotations

import random

from zfleet.rewards.phrase import Phrase
from zfleet.tasks.generated.family import Family, Question

_SUBJECTS = ("bakery", "book", "concert", "exhibition", "film", "holiday", "hotel", "museum", "restaurant", "show")
_GOOD = ("excellent", "charming", "delightful", "great", "lovely", "perfect", "superb", "wonderful")
_BAD = ("awful", "boring", "disappointing", "dreadful", "dull", "poor", "terrible", "unpleasant")
_PLAIN = ("The {subject} was {one} and {other}.", "I found the {subject} {one}, even {other}.")
_TURNING = (
    "I expected the {subject} to be {opposite}, but it was {one}.",
    "People call the {subject} {opposite}, but it was {one}.",
)


def _draw(rng: random.Random) -> Question:
    liked = rng.random() < 0.5
    same, opposite = (_GOOD, _BAD) if liked else (_BAD, _GOOD)
    one, other = rng.sample(same, 2)
    text = rng.choice(_PLAIN if rng.random() < 0.5 else _TURNING).format(
        subject=rng.choice(_SUBJECTS), one=one, other=other, opposite=rng.choice(opposite)
    )
    return Question(f"{text} Did I like it? Answer yes or no.", "yes" if liked else "no")


REVIEWS = Family("reviews", "review", _draw, Phrase(), 8)
