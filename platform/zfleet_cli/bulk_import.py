"""Import a folder of files with experts, with progress, and say what became of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import track

from zfleet.errors import ZfleetError
from zfleet_cli.untrusted import shown_lines
from zfleet_registry import z_file
from zfleet_registry.bulk import FileOutcome, import_files

if TYPE_CHECKING:
    from zfleet_registry import ExpertRegistry

_SHOWN = 20
"""Files that could not be imported, for people."""


def import_folder(files: Sequence[Path], experts: ExpertRegistry | None, as_json: bool) -> None:
    """Import files and print how many are new, how many were there, and which could not be imported.

    Args:
        files: The files.
        experts: The registry; None: only check the files.
        as_json: Print JSON.

    Raises:
        typer.Exit: With 1, if a file could not be imported.
        RegistryUnreachable: The registry does not answer; the same command continues later.
    """
    outcomes = map(_checked, files) if experts is None else import_files(experts, files)
    new, known, failed = 0, 0, []
    for outcome in track(outcomes, "importing", len(files), console=Console(stderr=True), transient=True):
        if outcome.error:
            failed.append(outcome)
        elif outcome.new:
            new += 1
        else:
            known += 1
    if as_json:
        errors = [{"file": str(one.file), "error": one.error} for one in failed]
        typer.echo(json.dumps({"new": new, "known": known, "failed": errors}, indent=2))
    else:
        done = f"{known:,} can be imported" if experts is None else f"{new:,} imported, {known:,} were there already"
        typer.echo(f"{done}, {len(failed):,} failed")
        for line in _lines(failed):
            typer.echo(line, err=True)
    if failed:
        raise typer.Exit(1)


def _checked(file: Path) -> FileOutcome:
    try:
        _, name, _ = z_file.read(file)
    except ZfleetError as error:
        return FileOutcome(file, "", False, str(error))
    return FileOutcome(file, name, False)


def _lines(failed: Sequence[FileOutcome]) -> Iterator[str]:
    for one in failed[:_SHOWN]:
        yield shown_lines(f"failed: {one.file}: {one.error}").plain
    if len(failed) > _SHOWN:
        yield f"and {len(failed) - _SHOWN:,} more: --json lists them"
