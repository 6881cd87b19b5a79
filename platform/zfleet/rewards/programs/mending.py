"""Slips that models make in code that is otherwise right, each put right in a text of its own."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator

from zfleet.rewards.programs.python_source import compiled, read

_LONGEST = 2**14
"""Characters of the longest text that is mended."""

_CUTS = 3
_BEGINNING = re.compile(r"^(?:@\w|(?:async )?def \w+\(|class \w+[:(]|import \w+|from [\w.]+ import )", re.MULTILINE)
_TABS = re.compile(r"^[ \t]*\t[ \t]*", re.MULTILINE)


def mended(code: str, prefix: str = "") -> Iterator[str]:
    """Texts that differ from some code in one way each, and without the prose behind them.

    Prose before the code and behind it, at the left margin, is left out. Of the rest of a prefix, the first line or all
    of it is moved to where the prefix has its own lines, or tabs become spaces.

    Args:
        prefix: The beginning of a program that the code may go on with.
    """
    if len(code) + len(prefix) > _LONGEST:
        return
    texts = list(dict.fromkeys((code, *_indented(code, prefix), *_without_prose_before(code))))
    yield from texts
    for text in texts:
        for lead in dict.fromkeys(("", prefix)):
            yield from _without_prose_behind(text, lead)


def _indented(code: str, prefix: str) -> Iterator[str]:
    """Some code as the rest of a prefix: its first line, or all, where the prefix has its last one."""
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
        yield _TABS.sub(lambda found: found[0].replace("\t", "    "), code)


def _without_prose_before(code: str) -> Iterator[str]:
    if found := _BEGINNING.search(code):
        yield code[found.start() :]


def _without_prose_behind(code: str, lead: str) -> Iterator[str]:
    """Some code that comes after a lead, up to a line at the left margin where it is no Python any more."""
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
            # Words before it may be expressions by chance: "Explanation", for one.
            kept = [before, *(node.end_lineno or 0 for node in source.tree.body if not isinstance(node, ast.Expr))]
            yield "\n".join([*lines[: max(kept) - before], ""])
