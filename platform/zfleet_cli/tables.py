"""Results as a table where the terminal is wide enough, else each row as a block with a line for each value."""

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
    """Print rows so that no word in them is broken, and so no number and no name, if it fits into a line at all.

    Args:
        console: Where to.
        title: Stands above.
        names: Of the columns.
        rows: The cells of each.
        lines: Rule a line between the rows of a table.
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
    """Print one row: its title, or an empty line without one, and a line for each of its values."""
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
    """How wide the columns of a table become, each at least as its longest word; None where they do not fit."""
    widths = [max(map(_longest_word, column)) for column in columns]
    wanted = [max(map(_longest_line, column)) for column in columns]
    # A border at each side of each column, and a space at each side of each cell.
    spare = room - (3 * len(columns) + 1) - sum(widths)
    if spare < 0:
        return None
    while spare and (narrow := [place for place, width in enumerate(widths) if width < wanted[place]]):
        widths[min(narrow, key=widths.__getitem__)] += 1
        spare -= 1
    return widths


def _longest_word(cell: Text) -> int:
    return max(map(cell_len, cell.plain.split()), default=1)


def _longest_line(cell: Text) -> int:
    return max(map(cell_len, cell.plain.splitlines()), default=1)
