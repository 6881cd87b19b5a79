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
    left_out = len(text) - most
    if left_out <= 0:
        return _escaped(text)
    cut = Text(f" … {left_out:,} more … ", style="dim")
    return Text.assemble(_escaped(text[: most - _END]), cut, _escaped(text[-_END:]))


def _escaped(text: str) -> Text:
    line = Text()
    for character in text:
        if character.isprintable():
            line.append(character)
        else:
            line.append(character.encode("unicode_escape").decode("ascii"), style="dim")
    return line
