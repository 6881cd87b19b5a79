"""The board: where workers of all experts say how far they are, and the driver reads it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from zfleet.errors import ZfleetError


@dataclass(frozen=True)
class Row:
    """One step of one expert.

    Attributes:
        expert: Its name.
        step: From 1.
        metrics: What is logged of it.
        pid: Process of the reporting worker.
    """

    expert: str
    step: int
    metrics: dict[str, float]
    pid: int


class Board:
    """A Ray actor: rows not read yet, and the errors that ended a run for good."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._warnings: list[str] = []
        self._errors: dict[str, list[ZfleetError]] = defaultdict(list)

    def post(self, row: Row) -> None:
        """Add a row."""
        self._rows.append(row)

    def take(self) -> list[Row]:
        """The rows posted since the last call."""
        rows, self._rows = self._rows, []
        return rows

    def warn(self, text: str) -> None:
        """Pass a warning on to the person."""
        self._warnings.append(text)

    def take_warnings(self) -> list[str]:
        """The warnings since the last call."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def fail(self, expert: str, error: ZfleetError) -> None:
        """Say that an expert cannot be trained: its workers need not be restarted."""
        self._errors[expert].append(error)

    def error(self, expert: str) -> ZfleetError | None:
        """The first error that ended an expert's run."""
        errors = self._errors.get(expert)
        return errors[0] if errors else None
