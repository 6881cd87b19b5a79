"""Two people and where they live: where does one of them live?"""

from __future__ import annotations

import random

from zfleet.rewards.phrase import OPTIONS, OneOf
from zfleet.tasks.generated.family import Family, Question
from zfleet.tasks.generated.vocabulary import CITIES, NAMES


def _draw(rng: random.Random) -> Question:
    people, cities = rng.sample(NAMES, 2), rng.sample(CITIES, 2)
    place = rng.randrange(2)
    text = f"{people[0]} lives in {cities[0]} and {people[1]} lives in {cities[1]}. Where does {people[place]} live?"
    return Question(text, cities[place], {OPTIONS: ", ".join(cities)})


RESIDENCES = Family("residences", "home", _draw, OneOf(), 10)
