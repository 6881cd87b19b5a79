"""``zfleet experts lineage``, ``diff`` and ``card``: where a version comes from, and what is different in another."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zfleet.errors import SpecError
from zfleet.files import write_atomic
from zfleet_cli.commands.experts import find_version
from zfleet_cli.options import AsJson, BaseSlug, Reference, Registry
from zfleet_cli.output import print_rows
from zfleet_cli.untrusted import shown_log

if TYPE_CHECKING:
    from zfleet_registry.lineage import Lineage


@dataclass(frozen=True)
class LineageRow:
    """One version in the list."""

    version: str
    kind: str
    aliases: str
    made_from: str


def lineage(
    reference: Reference,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: a .png or .svg file.", show_default=False)
    ] = None,
    registry: Registry = None,
    base: BaseSlug = None,
    as_json: AsJson = False,
) -> None:
    """Show all that a version was made from, and all that was made from it; a bare name means all its versions."""
    from zfleet_registry import ExpertRegistry
    from zfleet_registry.lineage import lineage_of
    from zfleet_registry.references import parse

    form = None if picture is None else _form(picture)
    experts = ExpertRegistry(registry)
    version = find_version(experts, reference, base)
    versions = experts.list()
    asked = parse(reference)
    chosen = [version]
    if asked.version is None and asked.alias is None:
        chosen = [one for one in versions if (one.base_slug, one.name) == (version.base_slug, version.name)]
    found = lineage_of(versions, chosen)
    if picture is not None and form is not None:
        from zfleet_registry.lineage.picture import draw_lineage

        write_atomic(picture, draw_lineage(found, form))
    if as_json:
        typer.echo(json.dumps(found.to_plain(), indent=2))
    else:
        print_rows(_rows(found), f"lineage of {reference}")


def diff(
    first: Reference,
    second: Reference,
    registry: Registry = None,
    base: BaseSlug = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: z by layer, spec, data and scores."""
    from zfleet_registry import ExpertRegistry
    from zfleet_registry.lineage.comparison import compare_versions

    experts = ExpertRegistry(registry)
    versions = find_version(experts, first, base), find_version(experts, second, base)
    found = compare_versions(experts, *versions)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    names = " and ".join(version.reference for version in versions)
    print_rows(found.fields, f"{names}: provenance that differs")
    print_rows(found.spec, "spec that differs")
    print_rows(found.scores, "scores")
    if found.layers is None:
        typer.echo(f"z: not comparable: {found.incomparable}")
    else:
        print_rows(found.layers, "z - 1 by layer, root mean squares")


def card(reference: Reference, registry: Registry = None, base: BaseSlug = None) -> None:
    """Print the model card of a version, in Markdown; of a .safetensors file, from what the file itself says."""
    from zfleet_registry import ExpertRegistry
    from zfleet_registry.provenance.card import card as card_of
    from zfleet_registry.z_file import read_origin

    if reference.endswith(".safetensors"):
        text = card_of(*read_origin(Path(reference)))
    else:
        version = find_version(ExpertRegistry(registry), reference, base)
        text = card_of(version.qualified, version.provenance, version.registration)
    typer.echo(shown_log(text), nl=False)


def _form(picture: Path) -> Literal["png", "svg"]:
    if picture.suffix == ".png":
        return "png"
    if picture.suffix == ".svg":
        return "svg"
    raise SpecError(f"--picture {str(picture)!r} is neither .png nor .svg", "give a file name that ends in one of them")


def _rows(found: Lineage) -> list[LineageRow]:
    rows = []
    for node in found.nodes:
        parents = [
            edge.parent + (f" ({edge.alpha})" if edge.relation == "mixed" else "")
            for edge in found.edges
            if edge.child == node.version
        ]
        rows.append(LineageRow(node.version, node.kind, ", ".join(node.aliases), ", ".join(parents)))
    return rows
