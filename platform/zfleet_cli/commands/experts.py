"""``zfleet experts``: what the registry holds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from zfleet.config.specs import BaseSpec
from zfleet.errors import SpecError
from zfleet_cli.factors import open_factors
from zfleet_cli.options import AsJson
from zfleet_cli.output import print_fields, print_rows

if TYPE_CHECKING:
    from zfleet_registry import ExpertRegistry, ExpertVersion

app = typer.Typer(no_args_is_help=True, help="Experts and mixtures in the registry.")

Registry = Annotated[
    str | None,
    typer.Option(metavar="URI", help="MLflow tracking URI; without it sqlite in runs/registry.", show_default=False),
]
BaseSlug = Annotated[
    str | None, typer.Option("--base", metavar="SLUG", help="A base, such as lab-1a2b3c4d.", show_default=False)
]
Reference = Annotated[
    str,
    typer.Argument(help="math, math/3 or math@champion; qualified: lab-1a2b3c4d.math/3", show_default=False),
]


@dataclass(frozen=True)
class Line:
    """One version in the list."""

    base: str
    expert: str
    aliases: str
    kind: str
    task: str
    created: str
    z_digest: str


@app.command("list")
def list_(registry: Registry = None, base: BaseSlug = None, as_json: AsJson = False) -> None:
    """List every version of every expert."""
    from zfleet_registry import ExpertRegistry

    print_rows([_line(version) for version in ExpertRegistry(registry).list(base)], "experts", as_json)


@app.command()
def show(reference: Reference, registry: Registry = None, base: BaseSlug = None, as_json: AsJson = False) -> None:
    """Show one version: where it comes from and what it reached."""
    from zfleet_registry import ExpertRegistry

    print_version(_find(ExpertRegistry(registry), reference, base), as_json)


@app.command()
def alias(
    reference: Reference,
    name: Annotated[str, typer.Argument(help="The alias, such as champion.", show_default=False)],
    drop: Annotated[bool, typer.Option("--drop", help="Take the alias away instead.")] = False,
    registry: Registry = None,
    base: BaseSlug = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version; services follow within seconds."""
    from zfleet_registry import ExpertRegistry

    experts = ExpertRegistry(registry)
    version = _find(experts, reference, base)
    changed = experts.drop_alias(version, name) if drop else experts.set_alias(version, name)
    if as_json:
        print_version(changed, as_json)
    else:
        typer.echo(f"{changed.qualified}: {', '.join(changed.aliases) or 'no alias'}")


@app.command()
def carry(
    reference: Reference,
    origin: Annotated[str, typer.Option("--from", metavar="MODEL", help="The base it was trained on.")],
    to: Annotated[str, typer.Option("--to", metavar="MODEL", help="A base that holds the same matrices.")],
    registry: Registry = None,
    as_json: AsJson = False,
) -> None:
    """Register an expert for another base too: one that holds the same matrices.

    Such is a vision-language model whose language tower is the base that the expert was trained on. The matrices are
    compared; nothing is registered where one differs.
    """
    from zfleet.models.base import base_name
    from zfleet.models.bundle import locate_base
    from zfleet.models.fingerprint import fingerprint
    from zfleet.svf.carry import carry as carried_to
    from zfleet_registry import ExpertRegistry

    experts = ExpertRegistry(registry)
    folders = [locate_base(BaseSpec(model=model))[1] for model in (origin, to)]
    bases = list(map(fingerprint, folders))
    if bases[0] == bases[1]:
        raise SpecError(f"--from {origin!r} and --to {to!r} are one base", "name two")
    version = _find(experts, reference, _slug_of(experts, bases[0]))
    z = experts.load(version)
    have, wanted = (open_factors(BaseSpec(model=model, targets=z.targets)) for model in (origin, to))
    carried = carried_to(z, have, wanted)
    there = [one for one in experts.list() if one.name == version.name and one.z_digest == carried.digest]
    provenance = replace(
        version.provenance,
        base=carried.base,
        factors=carried.factors,
        z_digest=carried.digest,
        metrics={},
        carried_from=version.qualified,
    )
    now = there[0] if there else experts.register(version.name, carried, provenance, base_name=base_name(to))
    print_version(now, as_json)


def _slug_of(experts: ExpertRegistry, base: str) -> str | None:
    """What the experts of a base are qualified by; None where there are none, or under several names."""
    slugs = {version.base_slug for version in experts.list() if version.provenance.base == base}
    return slugs.pop() if len(slugs) == 1 else None


def _find(experts: ExpertRegistry, reference: str, base: str | None) -> ExpertVersion:
    """The version meant; a bare name needs no base where only one can be meant."""
    from zfleet_registry.references import parse

    if base is None:
        name = parse(reference).name
        versions = experts.list()
        bases = {v.base_slug for v in versions if v.name == name} or {v.base_slug for v in versions}
        base = bases.pop() if len(bases) == 1 else None
    return experts.resolve(reference, base)


def _line(version: ExpertVersion) -> Line:
    return Line(
        base=version.base_slug,
        expert=version.reference,
        aliases=", ".join(version.aliases),
        kind=version.provenance.kind,
        task=version.provenance.task,
        created=f"{version.created:%Y-%m-%d %H:%M}",
        z_digest=version.z_digest[:12],
    )


def print_version(version: ExpertVersion, as_json: bool) -> None:
    """One version and its provenance."""
    values = asdict(version)
    provenance = values.pop("provenance")
    if as_json:
        typer.echo(json.dumps(values | {"provenance": provenance}, indent=2, default=str))
        return
    # Base and z digest stand in both, and are the same: the registry checks it.
    print_fields(values | provenance, version.qualified)
