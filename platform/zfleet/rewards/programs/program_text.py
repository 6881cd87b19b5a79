"""Find the program in a completion: which part is code, and which part of the prompt goes before it."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from zfleet.rewards.programs.fences import Block, fenced
from zfleet.rewards.programs.mending import mended
from zfleet.rewards.programs.python_source import DEFINITIONS, Source, beginning, read

_PYTHON = ("", "python", "python3", "py", "py3")
_HOLDS_MARKDOWN = ("", "markdown", "md")
_MOST_BLOCKS = 100
"""Only the last blocks of a completion are examined."""

_BEGIN = re.compile(r"\s*\[BEGIN\][ \t]*\n")
_DONE = re.compile(r"^\[DONE\]", re.MULTILINE)
_BUILT_IN = frozenset(dir(builtins))


def program_of(completion: str, names: Sequence[str], prefix: str = "") -> str:
    """Find the program in a completion, by the rules in docs/tasks.md.

    Takes time linear in the completion and raises nothing. If there is no program, it returns the last block, or the
    whole completion, so that Python's own error says what is wrong.

    Args:
        names: The names that the program should define: all of them, or if it cannot be, some.
        prefix: The beginning of a program that the completion continues or repeats.
    """
    text = _without_tags(re.sub(r"\r\n?", "\n", completion))
    goal = Goal(frozenset(names), prefix)
    strict = _Reading.of(text, False)
    # A line of tildes and a word is also a Python expression, so a text with such fences is not taken whole.
    if not any(block.mark == "~" for block in strict.blocks) and (whole := goal.program(text)):
        return whole.code
    if (program := _written(goal, strict)) is not None:
        return program
    loose = _Reading.of(text, True)
    for find, reading in ((_written, loose), (_mended, strict), (_mended, loose)):
        # If the loose reading finds the same fences, it gives the same result.
        if (reading is strict or loose.blocks != strict.blocks) and (program := find(goal, reading)) is not None:
            return program
    return goal.as_it_is((strict.codes or [text])[-1])


def _without_tags(text: str) -> str:
    """Remove the tags that MBPP's prompts ask for around a program. They are valid Python (a list of one name)."""
    if begin := _BEGIN.match(text):
        text = text[begin.end() :]
    done = _DONE.search(text)
    return text[: done.start()] if done else text


@dataclass(frozen=True)
class Goal:
    """Describes the program to find.

    Attributes:
        names: The names that the program should define: all of them, or if it cannot be, some.
        prefix: The beginning of a program that the completion continues or repeats.
    """

    names: frozenset[str]
    prefix: str

    @cached_property
    def preamble(self) -> str:
        """The part of the prefix before it starts to define one of the names; all of it if it defines none."""
        return self.prefix[: self._beginning]

    def program(self, code: str) -> Source | None:
        """Return the program that a text makes, by itself or as the rest of the prefix; None if it makes none."""
        source = self.plain(code)
        if source and self.names & (source.defined | source.imported):
            return self.placed(source)
        return self._rest(code)

    def plain(self, code: str) -> Source | None:
        """Compile a text as it is, or with its indentation removed."""
        if (source := read(code)) is not None:
            return source
        flat = read(textwrap.dedent(code)) if code.lstrip("\n")[:1].isspace() else None
        # An indented text may be the body of the prefix's function. It is not if it only imports and defines.
        idle = flat and all(isinstance(node, (*DEFINITIONS, ast.Import, ast.ImportFrom)) for node in flat.tree.body)
        return flat if idle or self._beginning is None else None

    def placed(self, source: Source) -> Source:
        """Put the preamble before code that defines the prefix's function again."""
        return _in_front(self.preamble, source) or source

    def with_needed(self, program: Source, others: Sequence[Source]) -> str:
        """Put the other blocks that define names the program uses before it, and those that these use in turn."""
        # An example may assign a variable `input` or `max`, which does not replace the built-in; a function does.
        offers = [(other.defined | other.imported) - _BUILT_IN | other.functions for other in others]
        provided = program.defined | program.imported
        missing = (program.missing | self.names) - provided
        chosen: set[int] = set()
        while more := [
            place
            for place, other in enumerate(others)
            if place not in chosen and (missing & offers[place] or (other.imports_all and missing - _BUILT_IN))
        ]:
            chosen.update(more)
            provided = provided.union(*(offers[place] for place in more))
            missing = missing.union(*(others[place].missing for place in more)) - provided
        helpers = "\n".join(others[place].code for place in sorted(chosen))
        return (_in_front(helpers, program) or program).code

    def as_it_is(self, code: str) -> str:
        """Return the code to run for a text that makes no program, so that Python's error says why."""
        source = self.plain(code)
        return self.placed(source).code if source else self.prefix + code

    @cached_property
    def _beginning(self) -> int | None:
        return beginning(self.prefix, self.names)

    def _rest(self, code: str) -> Source | None:
        """Join the prefix and a text that continues a function or a class of the prefix; None if it does not."""
        source = read(self.prefix + code) if self._beginning is not None else None
        return source if source and any(map(self._continues, source.tree.body)) else None

    def _continues(self, node: ast.stmt) -> bool:
        if not isinstance(node, DEFINITIONS) or node.name not in self.names:
            return False
        lines = self.prefix.split("\n")
        end = len(lines), len(lines[-1].encode())
        # A single word is an expression too, but not a body.
        return (node.lineno, node.col_offset) < end and any(
            not isinstance(part, ast.Expr) or isinstance(part.value, ast.Call | ast.Await | ast.Yield | ast.YieldFrom)
            for part in node.body
            if (part.end_lineno or 0, part.end_col_offset or 0) > end
        )


@dataclass(frozen=True)
class _Reading:
    """A text and its fenced blocks.

    Attributes:
        lines: The lines of the text.
        blocks: The fenced blocks, in order.
        codes: The contents of the Python blocks; of all blocks if none is marked as Python.
    """

    lines: Sequence[str]
    blocks: Sequence[Block]
    codes: Sequence[str]

    @classmethod
    def of(cls, text: str, loose: bool) -> _Reading:
        blocks = fenced(text, loose)
        inner = [part for block in blocks[-_MOST_BLOCKS:] for part in _inside(block) if part.code.strip()]
        python = [block.code for block in inner if block.kind in _PYTHON]
        return cls(text.split("\n"), blocks, (python or [block.code for block in inner])[-_MOST_BLOCKS:])

    @property
    def head(self) -> str:
        """The text before the first fence; all of it if there is no fence."""
        return self.part(0, self.blocks[0].start if self.blocks else len(self.lines))

    @property
    def lone(self) -> bool:
        """Whether the first fence may close a block that no fence opened: text before it, and no word after it."""
        return bool(self.blocks) and not self.blocks[0].kind and bool(self.head.strip())

    def part(self, start: int, stop: int) -> str:
        """Return the lines from ``start`` to before ``stop``."""
        return "\n".join([*self.lines[start:stop], ""])


def _inside(block: Block) -> list[Block]:
    """Return the blocks inside a block of Markdown, which may be the text between two real blocks; else the block."""
    if block.kind in _HOLDS_MARKDOWN and read(block.code) is None:
        return fenced(block.code) or [block]
    return [block]


def _written(goal: Goal, reading: _Reading) -> str | None:
    """Return the program that a text contains as written; None if there is none."""
    if reading.lone and (program := goal.program(reading.head)):
        rest = _Reading.of(reading.part(reading.blocks[0].start + 1, len(reading.lines)), False)
        return goal.with_needed(program, _sources(goal, rest.codes))
    sources = _sources(goal, reading.codes)
    tests: tuple[Callable[[Source], object], ...] = (
        lambda source: goal.names <= source.defined,
        lambda source: goal.names & source.defined,
        lambda source: goal.names & source.imported,
    )
    for test in tests:
        for place in reversed(range(len(sources))):
            if test(sources[place]):
                others = [other for at, other in enumerate(sources) if at < place or not goal.names & other.defined]
                return goal.with_needed(goal.placed(sources[place]), others)
    for code in (*reversed(reading.codes), *_reopened(reading), reading.head):
        if program := goal.program(code):
            others = [source for source in sources if source.code != code]
            known = _BUILT_IN.union(*(other.defined | other.imported for other in others))
            # This block may be the end of a body that begins in the blocks before it.
            if program.missing - known and (longer := goal.program("".join(reading.codes))):
                program = longer
            return goal.with_needed(program, others)
    return None


def _sources(goal: Goal, codes: Sequence[str]) -> list[Source]:
    """Compile the blocks that are Python. A block that is only valid after the block before it is joined to that."""
    joined: list[str] = []
    for code in codes:
        if joined and code.lstrip("\n")[:1].isspace() and read(code) is None and read(joined[-1] + code):
            joined[-1] += code
        else:
            joined.append(code)
    return [source for code in joined if (source := goal.plain(code))]


def _reopened(reading: _Reading) -> Iterator[str]:
    """Extend blocks that a fence inside them, in a string for example, ended too early: each up to a later fence."""
    for place, block in enumerate(reading.blocks[-_MOST_BLOCKS:]):
        if block.kind in _PYTHON and read(block.code) is None:
            for later in reading.blocks[-_MOST_BLOCKS:][place + 1 : place + 4]:
                for stop in (later.start, later.stop):
                    yield reading.part(block.start + 1, stop)


def _mended(goal: Goal, reading: _Reading) -> str | None:
    """Return the program that a text contains after one correction; None if there is none."""
    codes = [*reversed(reading.codes), reading.head]
    if reading.lone:
        codes.insert(0, codes.pop())
    for code in codes:
        for text in mended(code, goal.prefix):
            if program := goal.program(text):
                return goal.with_needed(program, _sources(goal, reading.codes))
    return None


def _in_front(first: str, source: Source) -> Source | None:
    """Put some code before a program, but behind imports from ``__future__``, which Python wants first."""
    lines = source.code.split("\n")
    future = [
        node.end_lineno or 0
        for node in source.tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    at = max(future, default=0)
    return read("\n".join([*lines[:at], first, *lines[at:]])) if first.strip() else source
