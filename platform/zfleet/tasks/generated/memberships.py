"""Whether a word belongs to a category: yes or no."""

from __future__ import annotations

import random

from zfleet.rewards.phrase import OPTIONS, OneOf
from zfleet.tasks.generated.family import Family, Question
from zfleet.tasks.generated.vocabulary import CATEGORIES, article

_REQUESTS = (
    "Is {word} {category}? Answer yes or no.",
    "Is {word} {category}? Yes or no?",
    "Yes or no: is {word} {category}?",
    "Answer yes or no. Is {word} {category}?",
    "Would you say that {word} is {category}? Answer yes or no.",
)


def _draw(rng: random.Random) -> Question:
    right, wrong = rng.sample(sorted(CATEGORIES), 2)
    belongs = rng.random() < 0.5
    word, category = rng.choice(CATEGORIES[right]), right if belongs else wrong
    text = rng.choice(_REQUESTS).format(word=article(word), category=category)
    return Question(text, "yes" if belongs else "no", {OPTIONS: "yes, no"})


MEMBERSHIPS = Family("memberships", "membership", _draw, OneOf(), 10)
