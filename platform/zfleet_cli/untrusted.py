"""Prepare a model's texts for a terminal: shorten them, and escape everything that a terminal would execute."""

from __future__ import annotations

from rich.text import Text

_END = 60
"""How many characters of the end of a long text are shown: answers are mostly there."""


def shown(text: str, most: int = 200) -> Text:
    """Return a text on one line, with the characters that do not print escaped and dimmed.

    Every character that is not ``str.isprintable`` is escaped: controls (newlines, escape sequences) and marks that
    change the direction of writing, for example. Rich's markup is shown as plain text.

    Args:
        text: A text of any length.
        most: The most characters to show, more than 60. A longer text keeps its beginning and its end.
    """
    return _shortened(text, most, newline=None)


def shown_lines(text: str, indent: str = "  ", most: int = 10_000) -> Text:
    """Return an error, a warning or a value, which may quote a model. Like ``shown``, but newlines stay.

    Args:
        text: A text of any length.
        indent: Put before every line but the first, so that a quoted text cannot pass for a line of ours.
        most: The most characters to show, more than 60.
    """
    return _shortened(text, most, newline=f"\n{indent}")


def shown_log(text: str) -> str:
    """Return a piece of a log with all characters escaped that a terminal would execute. Newlines and tabs stay."""
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _shortened(text: str, most: int, newline: str | None) -> Text:
    omitted = len(text) - most
    if omitted <= 0:
        return _escaped(text, newline)
    mark = Text(f" … {omitted:,} more … ", style="dim")
    return Text.assemble(_escaped(text[: most - _END], newline), mark, _escaped(text[-_END:], newline))


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
