"""Reviews whose sentiment is asked for: half of them change their mind in the middle."""

from __future__ import annotations

import random

from zfleet.rewards.phrase import OPTIONS, OneOf
from zfleet.tasks.generated.family import Family, Question

_SUBJECTS = ("bakery", "book", "concert", "exhibition", "film", "holiday", "hotel", "museum", "restaurant", "show")
_GOOD = ("excellent", "charming", "delightful", "great", "lovely", "perfect", "superb", "wonderful")
_BAD = ("awful", "boring", "disappointing", "dreadful", "dull", "poor", "terrible", "unpleasant")
_PLAIN = (
    "The {subject} was {one} and {other}.",
    "I found this {subject} {one}, even {other}.",
    "{other} in every way: that is what I say of this {subject}, and my friends call it {one}.",
)
_TURNING = (
    "I expected the {subject} to be {opposite}, but it was {one}.",
    "People call this {subject} {opposite}. They are wrong: it was {one} from beginning to end.",
    "The {subject} used to be {opposite}; now it is {one}.",
)


def _draw(rng: random.Random) -> Question:
    good = rng.random() < 0.5
    same, opposite = (_GOOD, _BAD) if good else (_BAD, _GOOD)
    one, other = rng.sample(same, 2)
    text = rng.choice(_PLAIN if rng.random() < 0.5 else _TURNING).format(
        subject=rng.choice(_SUBJECTS), one=one, other=other, opposite=rng.choice(opposite)
    )
    prompt = f"Review: {text[0].upper()}{text[1:]} Is this review positive or negative? Answer with one word."
    return Question(prompt, "positive" if good else "negative", {OPTIONS: "positive, negative"})


REVIEWS = Family("reviews", "sentiment", _draw, OneOf(), 8)
