"""A word and two categories, of which it belongs to one."""

from __future__ import annotations

import random

from zfleet.rewards.phrase import OPTIONS, OneOf
from zfleet.tasks.generated.family import Family, Question
from zfleet.tasks.generated.vocabulary import CATEGORIES, article


def _draw(rng: random.Random) -> Question:
    right, wrong = rng.sample(sorted(CATEGORIES), 2)
    word = rng.choice(CATEGORIES[right])
    first, second = rng.sample((right, wrong), 2)
    options = ", ".join(category.split()[1] for category in (first, second))
    return Question(f"Is {article(word)} {first} or {second}?", right.split()[1], {OPTIONS: options})


CATEGORIES_OF_WORDS = Family("categories", "category", _draw, OneOf(), 10)
