"""Usage of each key and expert by day, in the database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import sqlalchemy as sql

from zfleet_serve.access.amount import Amount
from zfleet_serve.access.database import Database, insert, usage

_COUNTS = tuple(field.name for field in fields(Amount))
_PLACE = ("day", "key_id", "expert")


@dataclass(frozen=True, order=True)
class Place:
    """One key, one expert and one day.

    Attributes:
        day: The day in UTC, as 2026-01-31.
        key_id: The key.
        expert: The expert's name, those of a mixture joined by ``+``; empty for the base.
    """

    day: str
    key_id: str
    expert: str


def today() -> str:
    """Return the day in UTC, as 2026-01-31."""
    return datetime.now(UTC).date().isoformat()


def month_start() -> str:
    """Return the first day of this month in UTC."""
    return f"{today()[:8]}01"


class UsageStore:
    """The usage in a database.

    Args:
        database: Where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, amounts: Iterable[tuple[Place, Amount]]) -> None:
        """Add amounts in one transaction: all of them or none.

        Raises:
            KeysError: The database does not answer.
        """
        with self._database.transaction() as connection:
            # In one order: PostgreSQL ends transactions that lock the same rows in opposite orders.
            for place, amount in sorted(amounts, key=lambda pair: pair[0]):
                new = insert(connection, usage).values(**vars(place), **vars(amount))
                sums = {name: usage.c[name] + new.excluded[name] for name in _COUNTS}
                connection.execute(new.on_conflict_do_update(index_elements=_PLACE, set_=sums))

    def read(self, since: str, key_id: str | None = None) -> list[tuple[Place, Amount]]:
        """Return the usage from a day on, by day, key and expert.

        Args:
            since: The first day.
            key_id: Of this key only.

        Raises:
            KeysError: The database does not answer.
        """
        query = usage.select().where(usage.c.day >= since).order_by(*(usage.c[name] for name in _PLACE))
        if key_id is not None:
            query = query.where(usage.c.key_id == key_id)
        with self._database.transaction() as connection:
            rows = [row._mapping for row in connection.execute(query)]
        return [
            (Place(*(row[name] for name in _PLACE)), Amount(**{name: row[name] for name in _COUNTS})) for row in rows
        ]

    def tokens_of_month(self) -> dict[str, int]:
        """Return the tokens of each key since the first of this month.

        Raises:
            KeysError: The database does not answer.
        """
        tokens = sql.func.sum(usage.c.prompt_tokens + usage.c.completion_tokens + usage.c.first_pass_tokens)
        query = sql.select(usage.c.key_id, tokens).where(usage.c.day >= month_start()).group_by(usage.c.key_id)
        with self._database.transaction() as connection:
            return {key_id: int(total) for key_id, total in connection.execute(query)}
