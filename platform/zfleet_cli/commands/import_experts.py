"""``zfleet experts import``: register experts that other programs trained, or another registry exported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zfleet.errors import FormatError, SpecError
from zfleet_cli.commands.experts import print_version
from zfleet_cli.options import BUNDLE_SUFFIX, AsJson, Registry
from zfleet_cli.output import print_rows

if TYPE_CHECKING:
    from zfleet.formats.projection import Residual
    from zfleet_cli.importing import Imported
    from zfleet_registry import ExpertRegistry


@dataclass(frozen=True)
class ResidualRow:
    """One matrix in the table: its change, and the part of it that no z can express."""

    matrix: str
    change: str
    residual: str
    of_change: str


@dataclass(frozen=True)
class BundledRow:
    """One version of a bundle that is only checked."""

    version: str
    kind: str
    bytes: int
    aliases: str


def import_experts(
    path: Annotated[
        Path,
        typer.Argument(
            help="A LoRA adapter's folder, or one that holds several; a checkpoint's folder; z.safetensors, or a "
            "folder of them; "
            "bundle.zip; policy_params.pt or learnable_params.pt.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="The base it was trained on, unless the file says it."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The name of the expert, unless the file says it.")] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Adapters, checkpoints: mlp, attention, all or a pattern; by default the fewest that do."),
    ] = None,
    max_residual: Annotated[
        float | None,
        typer.Option(min=0, help="Adapters, checkpoints: register nothing if the z leaves out more of the change."),
    ] = None,
    registry: Registry = None,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, and register nothing.")] = False,
) -> None:
    """Register experts from other formats; docs/formats.md says what each loses.

    A change of weights becomes the nearest z, with what no z can express reported for each matrix. No code in a file
    is run. Importing a file again registers nothing new.
    """
    from zfleet_cli.bulk_import import import_folder
    from zfleet_cli.importing import many_files, read_experts
    from zfleet_registry import ExpertRegistry
    from zfleet_registry.runs import REGISTRATIONS

    experts = None if dry_run else ExpertRegistry(registry)
    if experts is not None:
        experts.check_experiments(REGISTRATIONS)
    if path.suffix == BUNDLE_SUFFIX:
        if any(one is not None for one in (model, name, targets, max_residual)):
            raise SpecError("a bundle says bases, names and targets itself", "give the file alone")
        _import_bundle(path, experts, as_json)
        return
    if files := many_files(path):
        if any(one is not None for one in (model, name, targets, max_residual)):
            raise SpecError(f"the files in {path} say bases, names and targets themselves", "give the folder alone")
        import_folder(files, experts, as_json)
        return
    found = read_experts(path, model, name, targets)
    _check_residuals(found, max_residual)
    if as_json:
        plain = [_plain(one, experts) for one in found]
        typer.echo(json.dumps(plain[0] if len(plain) == 1 else plain, indent=2, default=str))
        return
    for one in found:
        _print_residuals(one.residuals)
        if experts is None:
            one.planned.print()
        else:
            print_version(one.planned.register(experts), as_json)


def _check_residuals(found: Sequence[Imported], most: float | None) -> None:
    from zfleet.formats.projection import Residual

    if most is None:
        return
    for one in found:
        if not one.residuals:
            raise SpecError("--max-residual has no effect: this format loses nothing", "leave it out")
        total = Residual.total(one.residuals)
        if total.relative > most:
            worst = max(one.residuals, key=lambda row: row.residual)
            raise FormatError(
                f"a z leaves out {total.relative:.1%} of the change of {one.planned.name}, more than --max-residual "
                f"{most:.1%}; most in {worst.matrix}, {worst.relative:.1%}",
                "nothing was registered: train an expert on the same task, or serve the adapter as it is",
            )


def _plain(one: Imported, experts: ExpertRegistry | None) -> dict[str, Any]:
    plain = one.planned.to_plain() if experts is None else asdict(one.planned.register(experts))
    return plain | {"residuals": [asdict(row) | {"relative": row.relative} for row in one.residuals]}


def _print_residuals(residuals: Sequence[Residual]) -> None:
    from zfleet.formats.projection import Residual

    if residuals:
        rows = [*residuals, Residual.total(residuals)]
        cells = [
            ResidualRow(row.matrix, f"{row.change:.4g}", f"{row.residual:.4g}", f"{row.relative:.2%}") for row in rows
        ]
        print_rows(cells, "what no z can express")


def _import_bundle(path: Path, experts: ExpertRegistry | None, as_json: bool) -> None:
    from zfleet_registry.bundles import open_bundle, register_bundle

    with open_bundle(path) as bundle:
        if experts is not None:
            print_rows(register_bundle(experts, bundle), f"registered from {path}", as_json)
            return
        rows = [
            BundledRow(one.qualified, one.provenance.get("kind", "expert"), one.size, ", ".join(one.aliases))
            for one in bundle.manifest.versions
        ]
        print_rows(rows, f"{path} is whole; nothing was registered", as_json)
