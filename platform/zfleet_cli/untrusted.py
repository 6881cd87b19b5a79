"""Texts that a model wrote, on a terminal: shortened, and with nothing in them that a terminal would obey."""

from __future__ import annotations

from rich.text import Text

_END = 60
"""Characters kept of the end of a long text, where answers mostly stand."""


def shown(text: str, most: int = 200) -> Text:
    """A text on one line, as it is but for characters that do not print: those are escaped, and dim.

    Escaped are controls (newlines, escape sequences), marks that turn the direction of writing, and all else that
    ``str.isprintable`` says no to. Rich's markup is text like any other.

    Args:
        text: Of any length.
        most: Characters kept, more than 60; of a longer text its beginning and its end, and how many are left out.
    """
    return _shortened(text, most, newline=None)


def shown_lines(text: str, indent: str = "  ", most: int = 10_000) -> Text:
    """An error, a warning or a value, which may quote a model: as ``shown``, but its newlines stay.

    Args:
        text: Of any length.
        indent: Stands before every line but the first, so that no text that is quoted passes for a line of ours.
        most: Characters kept, more than 60.
    """
    return _shortened(text, most, newline=f"\n{indent}")


def _shortened(text: str, most: int, newline: str | None) -> Text:
    left_out = len(text) - most
    if left_out <= 0:
        return _escaped(text, newline)
    cut = Text(f" … {left_out:,} more … ", style="dim")
    return Text.assemble(_escaped(text[: most - _END], newline), cut, _escaped(text[-_END:], newline))


def _escaped(text: str, newline: str | None) -> Text:
    line = Text()
    for character in text:
        if character == "\n" and newline is not None:
            line.append(newline)
        elif character.isprintable():
            line.append(character)
        else:
            line.append(character.encode("unicode_escape").decode("ascii"), style="dim")
    return line
