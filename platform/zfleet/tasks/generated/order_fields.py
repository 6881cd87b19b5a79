"""A field to be extracted from a customer's order."""

from __future__ import annotations

import random

from zfleet.rewards.phrase import OPTIONS, OneOf
from zfleet.tasks.generated.family import Family, Question
from zfleet.tasks.generated.vocabulary import CITIES, COLOURS, NAMES, OBJECTS

_FIELDS = {"city": "What is the city?", "name": "What is the customer's name?", "colour": "What is the colour?"}


def _draw(rng: random.Random) -> Question:
    count, things = rng.randint(2, 30), rng.choice(OBJECTS)
    order = {"city": rng.choice(CITIES), "name": rng.choice(NAMES), "colour": rng.choice(COLOURS)}
    field = rng.choice(sorted(_FIELDS))
    text = f"Order: {count} {order['colour']} {things} for {order['name']} in {order['city']}. {_FIELDS[field]}"
    return Question(text, order[field], {OPTIONS: ", ".join(order.values())})


ORDER_FIELDS = Family("order_fields", "order", _draw, OneOf(), 10)
