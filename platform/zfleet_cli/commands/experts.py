"""``zfleet experts``: list and show the versions in the registry, and move aliases."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from zfleet.errors import SpecError
from zfleet_cli.options import AsJson, BaseSlug, Reference, Registry, Why
from zfleet_cli.output import print_fields, print_rows

if TYPE_CHECKING:
    from zfleet_registry import ExpertRegistry, ExpertVersion

app = typer.Typer(no_args_is_help=True, help="Experts and mixtures in the registry.")


@dataclass(frozen=True)
class VersionRow:
    """One version in the list."""

    base: str
    expert: str
    aliases: str
    kind: str
    task: str
    created: str
    z_digest: str


@app.command("list")
def list_(
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The most versions.", show_default=False)
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Continue a list with --limit: what it printed last.", show_default=False),
    ] = None,
    registry: Registry = None,
    base: BaseSlug = None,
    as_json: AsJson = False,
) -> None:
    """List every version of every expert, or with --limit a page of them."""
    from zfleet_registry import ExpertRegistry

    if limit is None:
        if after is not None:
            raise SpecError("--after has no effect without --limit", "give both")
        print_rows([_row(version) for version in ExpertRegistry(registry).list(base)], "experts", as_json)
        return
    page = ExpertRegistry(registry).page(base, limit=limit, after=after or "")
    print_rows([_row(version) for version in page.versions], "experts", as_json)
    if page.after:
        # Not among the results, which programs read.
        typer.echo(f"more: --after {page.after}", err=True)


@app.command()
def show(reference: Reference, registry: Registry = None, base: BaseSlug = None, as_json: AsJson = False) -> None:
    """Show the provenance and the results of one version."""
    from zfleet_registry import ExpertRegistry

    print_version(find_version(ExpertRegistry(registry), reference, base), as_json)


@app.command()
def alias(
    reference: Reference,
    name: Annotated[str, typer.Argument(help="The alias, such as champion.", show_default=False)],
    drop: Annotated[bool, typer.Option("--drop", help="Remove the alias instead.")] = False,
    why: Why = "",
    registry: Registry = None,
    base: BaseSlug = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version; services follow within seconds."""
    from zfleet_registry import ExpertRegistry

    experts = ExpertRegistry(registry)
    version = find_version(experts, reference, base)
    changed = experts.drop_alias(version, name, why) if drop else experts.set_alias(version, name, why)
    if as_json:
        print_version(changed, as_json)
    else:
        typer.echo(f"{changed.qualified}: {', '.join(changed.aliases) or 'no alias'}")


def find_version(experts: ExpertRegistry, reference: str, base: str | None) -> ExpertVersion:
    """Resolve a reference. Without a base, the only base with this expert is meant, or the only base at all."""
    from zfleet_registry.references import parse

    parsed = parse(reference)
    if base is None and parsed.base_slug is None:
        slugs = experts.bases_of(parsed.name) or {version.base_slug for version in experts.list()}
        base = slugs.pop() if len(slugs) == 1 else None
    return experts.resolve(reference, base)


def slug_of(experts: ExpertRegistry, base: str) -> str | None:
    """Return the slug of a base's experts; None if it has no experts, or has them under several slugs."""
    slugs = {version.base_slug for version in experts.list() if version.provenance.base == base}
    return slugs.pop() if len(slugs) == 1 else None


def print_version(version: ExpertVersion, as_json: bool) -> None:
    """Print one version with its provenance."""
    values = asdict(version)
    provenance = values.pop("provenance")
    if as_json:
        typer.echo(json.dumps(values | {"provenance": provenance}, indent=2, default=str))
        return
    # Both have base and z digest. The registry checks that they are equal.
    print_fields(values | provenance, version.qualified)


def _row(version: ExpertVersion) -> VersionRow:
    return VersionRow(
        base=version.base_slug,
        expert=version.reference,
        aliases=", ".join(version.aliases),
        kind=version.provenance.kind,
        task=version.provenance.task,
        created=f"{version.created:%Y-%m-%d %H:%M}",
        z_digest=version.z_digest[:12],
    )
