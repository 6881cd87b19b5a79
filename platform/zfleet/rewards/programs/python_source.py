"""Analyse Python without running it: whether it compiles, and which names it defines, imports and misses."""

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
"""The most characters of a program that ``read`` reads."""

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
"""Statements that define functions and classes."""

_FILE = "zfleet_completion"
_READING = threading.Lock()
"""Held while warnings are filtered: the filters belong to the process, and graders run in threads."""


@dataclass(frozen=True)
class Source:
    """A program that compiles.

    Attributes:
        code: The text.
        tree: The syntax tree.
        symbols: The names, by scope.
    """

    code: str
    tree: ast.Module
    symbols: symtable.SymbolTable

    @cached_property
    def defined(self) -> frozenset[str]:
        """The names that the module assigns: functions, classes and values."""
        return frozenset(symbol.get_name() for symbol in self.symbols.get_symbols() if symbol.is_assigned())

    @cached_property
    def imported(self) -> frozenset[str]:
        """The names that the module imports."""
        return frozenset(symbol.get_name() for symbol in self.symbols.get_symbols() if symbol.is_imported())

    @cached_property
    def functions(self) -> frozenset[str]:
        """The names of the functions and classes that the module itself defines."""
        return frozenset(node.name for node in self.tree.body if isinstance(node, DEFINITIONS))

    @cached_property
    def missing(self) -> frozenset[str]:
        """The global names that the program uses but neither defines nor imports, built-in ones included."""
        used = {
            symbol.get_name()
            for table in _tables(self.symbols)
            for symbol in table.get_symbols()
            if symbol.is_global() and symbol.is_referenced()
        }
        return frozenset(used - self.defined - self.imported)

    @cached_property
    def imports_all(self) -> bool:
        """Whether the program uses ``import *``."""
        return any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in self.tree.body)


def compiled(code: str) -> Source:
    """Compile a program without showing Python's warnings.

    Raises:
        SyntaxError: The text is not a program, or is nested more deeply than Python allows.
    """
    with _READING, warnings.catch_warnings():
        # Python warns of escapes such as "\w" and of `x is 1`. The filter names the file, so that the warnings of other
        # threads still show.
        warnings.filterwarnings("ignore", module=rf"{_FILE}\Z")
        try:
            tree = ast.parse(code, _FILE)
            compile(tree, _FILE, "exec", dont_inherit=True)
            symbols = symtable.symtable(code, _FILE, "exec")
        except (RecursionError, MemoryError, OverflowError) as error:
            raise SyntaxError("it is nested too deeply") from error
        except ValueError as error:  # A zero byte, half a surrogate pair, or an integer of too many digits.
            raise SyntaxError(str(error)) from error
    return Source(code, tree, symbols)


def read(code: str) -> Source | None:
    """Compile a model's text; None if it is not a program, or so long that compiling takes seconds."""
    try:
        return compiled(code) if len(code) <= LONGEST else None
    except SyntaxError:
        return None


def beginning(prompt: str, names: Iterable[str]) -> int | None:
    """Return the position at which an unfinished program starts to define one of the names, decorators included."""
    either = "|".join(map(re.escape, names))
    match = re.search(rf"^(?:@.*\n)*(?:async[ \t]+)?(?:def|class)[ \t]+(?:{either})\b", prompt, re.MULTILINE)
    return None if match is None else match.start()


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    waiting = [table]
    while waiting:
        table = waiting.pop()
        yield table
        waiting += table.get_children()
