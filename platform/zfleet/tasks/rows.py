"""Read the rows of task files: JSON lines, gzipped or not, or JSON with a list of objects or one object."""

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
        """Read the number as JSON spells it."""
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
        offset: The byte at which its line begins; -1 if the file cannot be read from there.
    """

    data: dict[str, Any]
    where: str
    offset: int = -1


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file: the items of the list in a ``.json`` file, the lines of any other.

    Raises:
        TaskError: The file cannot be read, or a row (named) is not a JSON object.
    """
    return _list(path) if path.suffix == ".json" else read_lines(path)


def read_lines(path: Path) -> Iterator[Row]:
    """Yield the rows of a file with one object in each line. A file whose name ends in ``.gz`` is unpacked.

    Raises:
        TaskError: The file cannot be read, or a line (named) is not a JSON object.
    """
    packed = path.suffix == ".gz"
    # Read bytes, which split at newlines only: text mode also splits inside strings, at a lone carriage return.
    with _readable(path), gzip.open(path) if packed else path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield Row(parse_row(line, where), where, -1 if packed else offset)
            offset += len(line)


def parse_row(line: bytes, where: str) -> dict[str, Any]:
    """Parse one line as a JSON object.

    Raises:
        TaskError: The line is not a JSON object, or gives a key twice.
    """
    try:
        data = _loads(line)
    except RepeatedKey as error:
        raise TaskError(f"{where}: {error}", "keep one of the two") from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where} is not JSON: {error}", "write one JSON object per line, in UTF-8") from error
    return _object(data, where, 'write it as {"prompt": "..."}')


def _loads(data: bytes) -> Any:
    value = json.loads(data, parse_float=SpelledFloat, object_pairs_hook=unique_keys)
    # JSON can hold half of a surrogate pair, which no tokenizer accepts.
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _object(data: Any, where: str, remedy: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise TaskError(f"{where} is a JSON {type(data).__name__}, not an object", remedy)
    return data


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TaskError(f"task file {path} cannot be read: {reason}", "check the path in the task") from error


def _list(path: Path) -> Iterator[Row]:
    try:
        with _readable(path):
            rows = _loads(path.read_bytes())
    except RepeatedKey as error:
        raise TaskError(f"{path}: {error}", "keep one of the two") from error
    except (ValueError, RecursionError) as error:
        raise TaskError(
            f"{path} is not JSON: {error}", "correct the file, or write one object per line in a .jsonl file"
        ) from error
    if isinstance(rows, dict):
        yield Row(rows, str(path))
        return
    remedy = "write a list of objects"
    if not isinstance(rows, list):
        raise TaskError(f"{path} is a JSON {type(rows).__name__}, not a list", remedy)
    for place, data in enumerate(rows):
        where = f"{path}, item {place}"
        yield Row(_object(data, where, remedy), where)
