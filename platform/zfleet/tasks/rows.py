"""Rows of task files: JSON lines, gzipped or not, or JSON, a list of objects or one. Errors name file and line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from zfleet.errors import TaskError
from zfleet.unique_keys import RepeatedKey, unique_keys


class SpelledFloat(float):
    """A number with a point or an exponent that keeps its spelling: as text, 0.00001 is not 1e-05."""

    def __new__(cls, spelling: str) -> Self:
        """Read JSON's spelling."""
        number = super().__new__(cls, spelling)
        number.spelling = spelling
        return number

    def __str__(self) -> str:
        return self.spelling

    spelling: str


@dataclass(frozen=True)
class Row:
    """One object of a file.

    Attributes:
        data: Its keys and values.
        where: File and line, or file and place in the list, for errors.
        offset: Where its line begins, in bytes; -1 where the file cannot be entered in its middle.
    """

    data: dict[str, Any]
    where: str
    offset: int = -1


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, one at a time: of a ``.json`` file the items of its list, else its lines.

    Raises:
        TaskError: The file cannot be read, or a row (named) is no JSON object.
    """
    return _list(path) if path.suffix == ".json" else read_lines(path)


def read_lines(path: Path) -> Iterator[Row]:
    """The rows of a file with one object a line, gzipped where its name ends in ``.gz``.

    Raises:
        TaskError: The file cannot be read, or a line (named) is no JSON object.
    """
    packed = path.suffix == ".gz"
    # Bytes, and split at newlines only: text mode also splits inside strings at a lone carriage return.
    with _readable(path), gzip.open(path) if packed else path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield Row(parse_row(line, where), where, -1 if packed else offset)
            offset += len(line)


def parse_row(line: bytes, where: str) -> dict[str, Any]:
    """One line as an object.

    Raises:
        TaskError: It is none, or gives a key twice.
    """
    try:
        data = _loads(line)
    except RepeatedKey as error:
        raise TaskError(f"{where}: {error}", "keep one of the two") from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where} is no JSON: {error}", "write one JSON object per line, in UTF-8") from error
    if not isinstance(data, dict):
        raise TaskError(f"{where} is a JSON {type(data).__name__}, no object", 'write it as {"prompt": "..."}')
    return data


def _loads(data: bytes) -> Any:
    found = json.loads(data, parse_float=SpelledFloat, object_pairs_hook=unique_keys)
    # JSON can hold half of a surrogate pair, which no tokenizer takes.
    json.dumps(found, ensure_ascii=False).encode()
    return found


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TaskError(f"task file {path} cannot be read: {reason}", "check the file that the task names") from error


def _list(path: Path) -> Iterator[Row]:
    try:
        with _readable(path):
            rows = _loads(path.read_bytes())
    except RepeatedKey as error:
        raise TaskError(f"{path}: {error}", "keep one of the two") from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path} is no JSON: {error}", "mend the file, or write one object a line as .jsonl") from error
    if isinstance(rows, dict):
        yield Row(rows, str(path))
        return
    if not isinstance(rows, list):
        raise TaskError(f"{path} is a JSON {type(rows).__name__}, no list", "write a list of objects")
    for place, data in enumerate(rows):
        where = f"{path}, item {place}"
        if not isinstance(data, dict):
            raise TaskError(f"{where} is a JSON {type(data).__name__}, no object", "write a list of objects")
        yield Row(data, where)
