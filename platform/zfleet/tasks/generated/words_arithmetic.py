"""Additions and subtractions of numbers in words; the answer is a number."""

from __future__ import annotations

import random

from zfleet.rewards.numbers.grader import Number
from zfleet.tasks.generated.family import Family, Question
from zfleet.tasks.generated.vocabulary import NAMES, OBJECTS, in_words

_MORE = (
    "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
    "{name} buys {a} {things} on Monday and {b} on Tuesday. How many {things} is that?",
)
_LESS = (
    "{name} has {a} {things} and gives {b} away. How many {things} are left?",
    "There are {a} {things} in the shop and {name} buys {b}. How many {things} remain?",
)


def _draw(rng: random.Random) -> Question:
    large, small = rng.randint(6, 20), rng.randint(2, 9)
    adds = rng.random() < 0.5
    if not adds:
        small = min(small, large - 1)
    text = rng.choice(_MORE if adds else _LESS).format(
        name=rng.choice(NAMES), things=rng.choice(OBJECTS), a=in_words(large), b=in_words(small)
    )
    return Question(f"{text} Answer with a number.", str(large + small if adds else large - small))


WORDS_ARITHMETIC = Family("words_arithmetic", "arithmetic", _draw, Number(), 16)
