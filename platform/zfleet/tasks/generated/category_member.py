"""One of three words belongs to a category: which?"""

from __future__ import annotations

import random

from zfleet.rewards.phrase import OPTIONS, OneOf
from zfleet.tasks.generated.family import Family, Question
from zfleet.tasks.generated.vocabulary import CATEGORIES, article


def _draw(rng: random.Random) -> Question:
    category, *others = rng.sample(sorted(CATEGORIES), 3)
    words = [rng.choice(CATEGORIES[one]) for one in (category, *others)]
    answer = words[0]
    rng.shuffle(words)
    listed = ", ".join(words)
    return Question(
        f"Which of these words names {article(category)}: {listed}? Answer with one word.", answer, {OPTIONS: listed}
    )


CATEGORY_MEMBER = Family("category_member", "category", _draw, OneOf(), 12)
