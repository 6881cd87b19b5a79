"""Reading Python that nobody has run: whether it compiles, what it defines, and what it leaves others to define."""

from __future__ import annotations

import ast
import re
import symtable
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

LONGEST = 2**16
"""Characters of the longest program that ``read`` reads."""

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
"""Statements that define what can be called."""

_FILE = "zfleet_completion"
_READING = threading.Lock()
"""Filters of warnings are the process's, and graders run in threads."""


@dataclass(frozen=True)
class Source:
    """Python that compiles.

    Attributes:
        code: Its text.
        tree: Its statements.
        symbols: Its names, by scope.
    """

    code: str
    tree: ast.Module
    symbols: symtable.SymbolTable

    @cached_property
    def defined(self) -> frozenset[str]:
        """The names that it gives functions, classes and values of the module."""
        return frozenset(one.get_name() for one in self.symbols.get_symbols() if one.is_assigned())

    @cached_property
    def imported(self) -> frozenset[str]:
        """The names that its module imports."""
        return frozenset(one.get_name() for one in self.symbols.get_symbols() if one.is_imported())

    @cached_property
    def functions(self) -> frozenset[str]:
        """The names of its module's own functions and classes."""
        return frozenset(node.name for node in self.tree.body if isinstance(node, DEFINITIONS))

    @cached_property
    def missing(self) -> frozenset[str]:
        """The global names that it uses and neither defines nor imports, built-in ones included."""
        used = {
            one.get_name()
            for table in _tables(self.symbols)
            for one in table.get_symbols()
            if one.is_global() and one.is_referenced()
        }
        return frozenset(used - self.defined - self.imported)

    @cached_property
    def imports_all(self) -> bool:
        """Whether it imports names that it does not list, by ``import *``."""
        return any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in self.tree.body)


def compiled(code: str) -> Source:
    """Read a program, without a word of Python's warnings.

    Raises:
        SyntaxError: It is none, or is nested more deeply than Python takes.
    """
    with _READING, warnings.catch_warnings():
        # Of escapes, "\w", and comparisons, `x is 1`. By file, so that what other threads warn of still shows.
        warnings.filterwarnings("ignore", module=rf"{_FILE}\Z")
        try:
            tree = ast.parse(code, _FILE)
            compile(tree, _FILE, "exec", dont_inherit=True)
            symbols = symtable.symtable(code, _FILE, "exec")
        except (RecursionError, MemoryError, OverflowError) as error:
            raise SyntaxError("it is nested too deeply") from error
        except ValueError as error:  # a zero byte, half a surrogate pair, an integer of too many digits
            raise SyntaxError(str(error)) from error
    return Source(code, tree, symbols)


def read(code: str) -> Source | None:
    """As ``compiled``, of what a model wrote; None where it is no program, or so long that reading it takes seconds."""
    try:
        return compiled(code) if len(code) <= LONGEST else None
    except SyntaxError:
        return None


def beginning(prompt: str, names: Iterable[str]) -> int | None:
    """Where an unfinished program begins the first of the names' functions and classes, decorators included."""
    either = "|".join(map(re.escape, names))
    found = re.search(rf"^(?:@.*\n)*(?:async[ \t]+)?(?:def|class)[ \t]+(?:{either})\b", prompt, re.MULTILINE)
    return None if found is None else found.start()


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    waiting = [table]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += one.get_children()
