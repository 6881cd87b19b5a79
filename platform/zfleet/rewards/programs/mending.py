"""Correct small slips of models in code that is otherwise right; each correction gives a text of its own."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator

from zfleet.rewards.programs.python_source import compiled, read

_LONGEST = 2**14
"""Longer texts, in characters, are not corrected."""

_CUTS = 3
_BEGINNING = re.compile(r"^(?:@\w|(?:async )?def \w+\(|class \w+[:(]|import \w+|from [\w.]+ import )", re.MULTILINE)
_TABS = re.compile(r"^[ \t]*\t[ \t]*", re.MULTILINE)


def mended(code: str, prefix: str = "") -> Iterator[str]:
    """Yield corrected texts of some code. Each has one correction, and the prose behind the code may be cut as well.

    Prose before and behind the code, at the left margin, is removed. If the code continues a prefix, its first line or
    all lines are indented like the prefix's last line, or tabs become spaces.

    Args:
        prefix: The beginning of a program that the code may continue.
    """
    if len(code) + len(prefix) > _LONGEST:
        return
    texts = list(dict.fromkeys((code, *_indented(code, prefix), *_without_prose_before(code))))
    yield from texts
    for text in texts:
        for lead in dict.fromkeys(("", prefix)):
            yield from _without_prose_behind(text, lead)


def _indented(code: str, prefix: str) -> Iterator[str]:
    """Indent code that continues a prefix: its first line, or all lines, to the margin of the prefix's last line."""
    if not prefix.strip() or not code.strip():
        return
    last = prefix.rstrip().rsplit("\n", 1)[-1]
    margin = last[: len(last) - len(last.lstrip())]
    if last.endswith(":"):
        margin += "    "
    code = code.lstrip("\n")
    yield margin + code.lstrip()
    yield textwrap.indent(textwrap.dedent(code), margin)
    if "\t" not in margin:
        yield _TABS.sub(lambda match: match[0].replace("\t", "    "), code)


def _without_prose_before(code: str) -> Iterator[str]:
    if match := _BEGINNING.search(code):
        yield code[match.start() :]


def _without_prose_behind(code: str, lead: str) -> Iterator[str]:
    """Cut code that follows ``lead`` before the line at the left margin from which on it is not Python."""
    before = lead.count("\n")
    lines = code.split("\n")
    for _ in range(_CUTS):
        try:
            compiled(lead + "\n".join(lines))
            return
        except SyntaxError as error:
            stop = (error.lineno or 1) - before
        margins = [at for at, line in enumerate(lines[: max(stop, 0)]) if line and line[0] not in " \t#)]}"]
        if not margins:
            return
        lines = lines[: margins[-1]]
        if source := read(lead + "\n".join(lines)):
            # A word such as "Explanation" is an expression too, so trailing expressions are cut as well.
            ends = [before, *(node.end_lineno or 0 for node in source.tree.body if not isinstance(node, ast.Expr))]
            yield "\n".join([*lines[: max(ends) - before], ""])
