"""The planned memory of a job's processes, as a table for people and as plain data for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from zfleet_cli.tables import print_table

if TYPE_CHECKING:
    from zfleet.memory.table import MemoryTable, Room


def memory_rows(table: MemoryTable, room: Room | None) -> dict[str, Any]:
    """Return a table as plain data; all sizes are bytes."""
    parts = [{"part": part.name, "bytes": part.bytes, "when": part.when, "how": part.how} for part in table.parts]
    available = None if room is None else {"bytes": room.most, "free_now": room.now, "what": room.what}
    return {"process": table.process, "parts": parts, "peak": table.peak, "available": available}


def print_memory(table: MemoryTable, room: Room | None) -> None:
    """Print a table to the error stream: the output has the spec, which can be read again."""
    from zfleet.memory.table import gib

    rows: list[tuple[str, ...]] = [(part.name, gib(part.bytes), part.when, part.how) for part in table.parts]
    rows.append(("at most at once", gib(table.peak), "", "phases that take turns do not add up"))
    if room is not None:
        rows.append(("there is", gib(room.most), "", room.what))
        rows.append(("free now", gib(room.now), "", ""))
    title = f"memory of {table.process}"
    print_table(Console(stderr=True), title, ("part", "size", "when", "how"), [tuple(map(Text, row)) for row in rows])
