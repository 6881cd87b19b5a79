"""Print results as a table if the terminal is wide enough, otherwise each row as a block of lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_TITLE = "table.title"
_GAP = 2


def print_table(
    console: Console, title: str, names: Sequence[str], rows: Sequence[Sequence[Text]], lines: bool = False
) -> None:
    """Print rows without breaking a word, a number or a name, unless it is longer than a line.

    Args:
        console: The console to print to.
        title: The line above the rows.
        names: The names of the columns.
        rows: The cells of each row.
        lines: Whether to draw lines between the rows of a table.
    """
    columns = list(zip(map(Text, names), *rows, strict=True))
    widths = _widths(columns, console.width)
    if widths is None:
        for place, row in enumerate(rows):
            print_block(console, "" if place else title, names, row)
        return
    table = Table(title=title, title_justify="left", show_lines=lines)
    for name, width in zip(names, widths, strict=True):
        table.add_column(name, width=width)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_block(console: Console, title: str, names: Iterable[str], cells: Iterable[Text]) -> None:
    """Print one row as a block: its title (an empty line if there is none), then a line for each value."""
    labels = [Text(name) for name in names]
    label = max(map(_longest_line, labels), default=0) + _GAP
    grid = Table.grid()
    grid.add_column(width=label, no_wrap=True)
    grid.add_column(width=max(1, console.width - label), overflow="fold")
    for name, cell in zip(labels, cells, strict=True):
        grid.add_row(name, cell)
    console.print(Text(title, style=_TITLE))
    console.print(grid)


def _widths(columns: Sequence[Sequence[Text]], room: int) -> list[int] | None:
    """Return the widths of a table's columns, each at least that of its longest word; None if they do not fit."""
    widths = [max(map(_longest_word, column)) for column in columns]
    full_widths = [max(map(_longest_line, column)) for column in columns]
    # Each column has a border on each side, and each cell a space on each side.
    spare = room - (3 * len(columns) + 1) - sum(widths)
    if spare < 0:
        return None
    while spare and (narrow := [place for place, width in enumerate(widths) if width < full_widths[place]]):
        widths[min(narrow, key=widths.__getitem__)] += 1
        spare -= 1
    return widths


def _longest_word(cell: Text) -> int:
    return max(map(cell_len, cell.plain.split()), default=1)


def _longest_line(cell: Text) -> int:
    return max(map(cell_len, cell.plain.splitlines()), default=1)
