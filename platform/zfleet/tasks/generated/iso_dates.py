"""Dates to be written in the form of ISO 8601."""

from __future__ import annotations

import random

from zfleet.rewards.phrase import Phrase
from zfleet.tasks.generated.family import Family, Question

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def _draw(rng: random.Random) -> Question:
    year, month, day = rng.randint(1950, 2030), rng.randint(1, 12), rng.randint(1, 28)
    date = rng.choice((f"{day} {_MONTHS[month - 1]} {year}", f"{_MONTHS[month - 1]} {day}, {year}"))
    return Question(
        f"Write the date {date} in the form YYYY-MM-DD. Answer with the date only.", f"{year}-{month:02}-{day:02}"
    )


ISO_DATES = Family("iso_dates", "date", _draw, Phrase(), 16)
