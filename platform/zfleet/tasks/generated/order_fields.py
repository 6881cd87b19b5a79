"""A field to be extracted from a customer's order; the answer is the field alone."""

from __future__ import annotations

import random

from zfleet.rewards.phrase import Phrase
from zfleet.tasks.generated.family import Family, Question
from zfleet.tasks.generated.vocabulary import CITIES, COLOURS, NAMES, OBJECTS

_ORDERS = (
    "Order {number}: {count} {colour} {things} for {name}, to be sent to {city}.",
    "{name} from {city} has ordered {count} {colour} {things} (order {number}).",
)
_FIELDS = {"city": "the city", "name": "the customer's name", "colour": "the colour of the {things}"}


def _draw(rng: random.Random) -> Question:
    order = {
        "number": str(rng.randint(1000, 9999)),
        "count": str(rng.randint(2, 30)),
        "colour": rng.choice(COLOURS),
        "things": rng.choice(OBJECTS),
        "name": rng.choice(NAMES),
        "city": rng.choice(CITIES),
    }
    field = rng.choice(list(_FIELDS))
    asked = _FIELDS[field].format(**order)
    text = f"{rng.choice(_ORDERS).format(**order)} What is {asked}? Answer with one word."
    return Question(text, order[field])


ORDER_FIELDS = Family("order_fields", "extraction", _draw, Phrase(), 16)
