"""From what a model wrote to a program: which part of it is the code, and what of the prompt comes before."""

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
"""The last ones of a completion are looked at."""

_BEGIN = re.compile(r"\s*\[BEGIN\][ \t]*\n")
_DONE = re.compile(r"^\[DONE\]", re.MULTILINE)
_BUILT_IN = frozenset(dir(builtins))


def program_of(completion: str, names: Sequence[str], prefix: str = "") -> str:
    """Find the program that a completion makes, as docs/tasks.md says.

    Takes time linear in the completion, whatever that holds, and raises nothing: of a completion that makes no program
    it gives the last block, or all of it, for Python to say what is wrong.

    Args:
        names: What the program is to define: all of them, or else some.
        prefix: The beginning of a program that the completion goes on with, or writes again.
    """
    text = _without_tags(re.sub(r"\r\n?", "\n", completion))
    goal = Goal(frozenset(names), prefix)
    strict = _Reading.of(text, False)
    # A line of tildes and a word is an expression in Python.
    if not any(block.mark == "~" for block in strict.blocks) and (whole := goal.program(text)):
        return whole.code
    if (found := _written(goal, strict)) is not None:
        return found
    loose = _Reading.of(text, True)
    for find, reading in ((_written, loose), (_mended, strict), (_mended, loose)):
        # One that begins with the same fences says nothing new.
        if (reading is strict or loose.blocks != strict.blocks) and (found := find(goal, reading)) is not None:
            return found
    return goal.as_it_is((strict.codes or [text])[-1])


def _without_tags(text: str) -> str:
    """A text without the tags that MBPP's authors ask for around a program; these are Python too, lists of a name."""
    if begun := _BEGIN.match(text):
        text = text[begun.end() :]
    done = _DONE.search(text)
    return text[: done.start()] if done else text


@dataclass(frozen=True)
class Goal:
    """What is looked for.

    Attributes:
        names: What the program is to define: all of them, or else some.
        prefix: The beginning of a program that the completion goes on with, or writes again.
    """

    names: frozenset[str]
    prefix: str

    @cached_property
    def preamble(self) -> str:
        """What stands in the prefix before it begins the first of the names: all of it where it begins none."""
        return self.prefix[: self._begun]

    def program(self, code: str) -> Source | None:
        """The program that a text makes: by itself, or as the rest of the prefix. None where it makes none."""
        source = self.plain(code)
        if source and self.names & (source.defined | source.imported):
            return self.placed(source)
        return self._rest(code)

    def plain(self, code: str) -> Source | None:
        """A text as Python: as it is, or all of it moved to the left margin."""
        if (source := read(code)) is not None:
            return source
        flat = read(textwrap.dedent(code)) if code.lstrip("\n")[:1].isspace() else None
        # A function's body may define a function of the same name; but one that does nothing else is no body.
        idle = flat and all(isinstance(node, (*DEFINITIONS, ast.Import, ast.ImportFrom)) for node in flat.tree.body)
        return flat if idle or self._begun is None else None

    def placed(self, source: Source) -> Source:
        """Code that writes what the prefix begins anew, behind what comes before that."""
        return _in_front(self.preamble, source) or source

    def with_needed(self, program: Source, others: Sequence[Source]) -> str:
        """A program behind those of the other blocks that define what it uses, and what these use."""
        # A use of the program may call a value `input` or `max`; code that counts on its own is a function.
        offers = [(other.defined | other.imported) - _BUILT_IN | other.functions for other in others]
        given = program.defined | program.imported
        wanted = (program.missing | self.names) - given
        taken: set[int] = set()
        while more := [
            place
            for place, other in enumerate(others)
            if place not in taken and (wanted & offers[place] or (other.imports_all and wanted - _BUILT_IN))
        ]:
            taken.update(more)
            given = given.union(*(offers[place] for place in more))
            wanted = wanted.union(*(others[place].missing for place in more)) - given
        helpers = "\n".join(others[place].code for place in sorted(taken))
        return (_in_front(helpers, program) or program).code

    def as_it_is(self, code: str) -> str:
        """What is run of a text that makes no program, so that Python says why."""
        source = self.plain(code)
        return self.placed(source).code if source else self.prefix + code

    @cached_property
    def _begun(self) -> int | None:
        return beginning(self.prefix, self.names)

    def _rest(self, code: str) -> Source | None:
        """The prefix and a text, where that goes on inside a function or a class that the prefix begins."""
        source = read(self.prefix + code) if self._begun is not None else None
        return source if source and any(map(self._goes_on, source.tree.body)) else None

    def _goes_on(self, node: ast.stmt) -> bool:
        if not isinstance(node, DEFINITIONS) or node.name not in self.names:
            return False
        lines = self.prefix.split("\n")
        end = len(lines), len(lines[-1].encode())
        # A word alone is an expression too, and no body.
        return (node.lineno, node.col_offset) < end and any(
            not isinstance(one, ast.Expr) or isinstance(one.value, ast.Call | ast.Await | ast.Yield | ast.YieldFrom)
            for one in node.body
            if (one.end_lineno or 0, one.end_col_offset or 0) > end
        )


@dataclass(frozen=True)
class _Reading:
    """A text and its fences.

    Attributes:
        lines: Of the text, N of them.
        blocks: As they stand in it.
        codes: Those of Python, and those of others where there is none of Python.
    """

    lines: Sequence[str]
    blocks: Sequence[Block]
    codes: Sequence[str]

    @classmethod
    def of(cls, text: str, loose: bool) -> _Reading:
        blocks = fenced(text, loose)
        inner = [one for block in blocks[-_MOST_BLOCKS:] for one in _inside(block) if one.code.strip()]
        python = [one.code for one in inner if one.kind in _PYTHON]
        return cls(text.split("\n"), blocks, (python or [one.code for one in inner])[-_MOST_BLOCKS:])

    @property
    def head(self) -> str:
        """What stands before the first fence; all of it where there is none."""
        return self.part(0, self.blocks[0].start if self.blocks else len(self.lines))

    @property
    def lone(self) -> bool:
        """Whether the first fence may close a block that none opened: there is text before it, and no word behind."""
        return bool(self.blocks) and not self.blocks[0].kind and bool(self.head.strip())

    def part(self, start: int, stop: int) -> str:
        """Some lines."""
        return "\n".join([*self.lines[start:stop], ""])


def _inside(block: Block) -> list[Block]:
    """The block, or those inside one that holds Markdown: it may also be what stands between two others."""
    if block.kind in _HOLDS_MARKDOWN and read(block.code) is None:
        return fenced(block.code) or [block]
    return [block]


def _written(goal: Goal, reading: _Reading) -> str | None:
    """The program that a text holds just as it is written."""
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
                others = [one for at, one in enumerate(sources) if at < place or not goal.names & one.defined]
                return goal.with_needed(goal.placed(sources[place]), others)
    for code in (*reversed(reading.codes), *_reopened(reading), reading.head):
        if program := goal.program(code):
            others = [one for one in sources if one.code != code]
            known = _BUILT_IN.union(*(one.defined | one.imported for one in others))
            # The end of a body that begins in the blocks before it.
            if program.missing - known and (longer := goal.program("".join(reading.codes))):
                program = longer
            return goal.with_needed(program, others)
    return None


def _sources(goal: Goal, codes: Sequence[str]) -> list[Source]:
    """What of some blocks is Python. A block that only makes sense as the rest of the one before is joined to it."""
    joined: list[str] = []
    for code in codes:
        if joined and code.lstrip("\n")[:1].isspace() and read(code) is None and read(joined[-1] + code):
            joined[-1] += code
        else:
            joined.append(code)
    return [source for code in joined if (source := goal.plain(code))]


def _reopened(reading: _Reading) -> Iterator[str]:
    """Blocks that a fence inside them, in a text for example, ended too early: each up to a later fence."""
    for place, block in enumerate(reading.blocks[-_MOST_BLOCKS:]):
        if block.kind in _PYTHON and read(block.code) is None:
            for later in reading.blocks[-_MOST_BLOCKS:][place + 1 : place + 4]:
                for stop in (later.start, later.stop):
                    yield reading.part(block.start + 1, stop)


def _mended(goal: Goal, reading: _Reading) -> str | None:
    """The program that a text holds with one slip, and nothing more, put right."""
    codes = [*reversed(reading.codes), reading.head]
    if reading.lone:
        codes.insert(0, codes.pop())
    for code in codes:
        for text in mended(code, goal.prefix):
            if program := goal.program(text):
                return goal.with_needed(program, _sources(goal, reading.codes))
    return None


def _in_front(first: str, source: Source) -> Source | None:
    """Some code, and a program behind it, but for imports from the future, which Python wants first."""
    lines = source.code.split("\n")
    future = [
        node.end_lineno or 0
        for node in source.tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    at = max(future, default=0)
    return read("\n".join([*lines[:at], first, *lines[at:]])) if first.strip() else source
