"""Print specs and results to the standard output, as tables for people or as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from zfleet.config.load import dump_spec
from zfleet.config.spec import Spec
from zfleet_cli.tables import print_block, print_table
from zfleet_cli.untrusted import shown_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@contextmanager
def results_alone() -> Iterator[None]:
    """Send everything that is printed inside the block to the error stream, so that only results go to the output.

    Ray prints to the output when a node dies, which would break a program that reads our JSON.
    """
    with redirect_stdout(sys.stderr):
        yield


def print_spec(spec: Spec, as_json: bool = False, more: Mapping[str, Any] | None = None) -> None:
    """Print the resolved spec as YAML or JSON. Both can be read again as a spec file, unless there is more in it.

    Args:
        spec: The spec.
        as_json: Print JSON.
        more: Other keys of the JSON object.
    """
    if as_json:
        typer.echo(json.dumps(spec.model_dump(mode="json") | dict(more or {}), indent=2))
    else:
        typer.echo(dump_spec(spec), nl=False)


def print_rows(rows: Sequence[DataclassInstance], title: str, as_json: bool = False) -> None:
    """Print a table with a row for each result and a column for each field; as JSON, a list of objects."""
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2, default=_as_json))
        return
    if not rows:
        typer.echo(f"{title}: none")
        return
    names = [field.name for field in fields(rows[0])]
    cells = [[_cell(getattr(row, name)) for name in names] for row in rows]
    print_table(Console(), title, list(map(_in_words, names)), cells)


def print_fields(values: Mapping[str, Any], title: str) -> None:
    """Print a line for each value that is not empty."""
    cells = {_in_words(key): _cell(value) for key, value in values.items() if value not in ("", None, (), {})}
    print_block(Console(), title, cells.keys(), cells.values())


def _as_json(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _in_words(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> Text:
    return shown_lines(_plain(value), indent="")


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)
