"""Three names to be put into alphabetical order."""

from __future__ import annotations

import random

from zfleet.rewards.phrase import InOrder
from zfleet.tasks.generated.family import Family, Question
from zfleet.tasks.generated.vocabulary import NAMES

_REQUESTS = (
    "Put these names in alphabetical order: {names}. Answer with the three names only.",
    "Sort these names from A to Z: {names}. Write nothing but the sorted names.",
)


def _draw(rng: random.Random) -> Question:
    names = rng.sample(NAMES, 3)
    while names == sorted(names):
        # A copy of the prompt would be right.
        rng.shuffle(names)
    return Question(rng.choice(_REQUESTS).format(names=", ".join(names)), ", ".join(sorted(names)))


SORTED_NAMES = Family("sorted_names", "sorting", _draw, InOrder(), 16)
