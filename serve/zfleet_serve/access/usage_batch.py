"""Usage that waits in memory for the next write, and the budgets of this month."""

from __future__ import annotations

from collections.abc import Mapping

from zfleet_serve.access.amount import Amount
from zfleet_serve.access.usage import Place, UsageStore, month_start, today


class UsageBatch:
    """Collects what requests use, and writes it together. A process that is killed loses what is not yet written.

    Args:
        store: Where it goes.
    """

    def __init__(self, store: UsageStore) -> None:
        self._store = store
        self._unwritten: dict[Place, Amount] = {}
        self._writing: Mapping[Place, Amount] = {}
        self._month = ""
        self._written: dict[str, int] = {}

    def add(self, key_id: str, expert: str, amount: Amount) -> None:
        """Count what a request used."""
        place = Place(today(), key_id, expert)
        self._unwritten[place] = self._unwritten.get(place, Amount()) + amount

    def month_tokens(self, key_id: str) -> int:
        """Return the tokens of a key in this month, as far as this process knows."""
        month = month_start()
        unwritten = sum(
            amount.tokens
            for batch in (self._unwritten, self._writing)
            for place, amount in batch.items()
            if place.key_id == key_id and place.day >= month
        )
        return unwritten + (self._written.get(key_id, 0) if self._month == month else 0)

    def take(self) -> None:
        """Begin a new batch, and make the present one the next to be written. Call it in the event loop."""
        for place, amount in self._writing.items():  # the last write failed
            self._unwritten[place] = self._unwritten.get(place, Amount()) + amount
        self._writing, self._unwritten = self._unwritten, {}

    def write(self) -> None:
        """Write the batch that was taken, and read the sums of this month, those of other processes included. Blocks.

        Raises:
            KeysError: The database does not answer; the batch is kept for the next time.
        """
        month = month_start()
        if self._writing:
            self._store.add(self._writing.items())
            # It is stored, also if the sums cannot be read now: written again, it would count twice.
            sums = dict(self._written) if self._month == month else {}
            for place, amount in self._writing.items():
                sums[place.key_id] = sums.get(place.key_id, 0) + amount.tokens * (place.day >= month)
            # Counted twice between these two lines: for a moment a budget is used up too early, never too late.
            self._written, self._month = sums, month
            self._writing = {}
        self._written, self._month = self._store.tokens_of_month(), month
