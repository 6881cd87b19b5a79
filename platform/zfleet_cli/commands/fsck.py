"""``zfleet experts fsck``: what is wrong with a registry, and mending it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from zfleet.paths import REGISTRY_FOLDER
from zfleet_cli.options import AsJson, Registry
from zfleet_cli.output import print_rows


@dataclass(frozen=True)
class FaultRow:
    """One fault in the list."""

    check: str
    where: str
    fault: str
    then: str


def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    registry: Registry = None,
    as_json: AsJson = False,
) -> None:
    """Check every version, alias and log of a registry. Exits 1 if faults stay."""
    from zfleet_registry.connect import connect
    from zfleet_registry.fsck import check_registry

    results = check_registry(connect(registry, Path(REGISTRY_FOLDER)), repair)
    left = sum(not result.mended for result in results)
    if as_json:
        typer.echo(json.dumps({"faults": [asdict(result) for result in results], "left": left}, indent=2))
    else:
        rows = [
            FaultRow(one.check, one.where, one.fault, f"mended: {one.then}" if one.mended else one.then)
            for one in results
        ]
        print_rows(rows, "faults")
    if left:
        raise typer.Exit(1)
