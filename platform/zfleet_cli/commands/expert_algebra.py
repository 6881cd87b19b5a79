"""``zfleet experts mix``, ``negate``, ``scale`` and ``interpolate``: new versions by the algebra of z-vectors.

All of them are mixtures, z' = 1 + sum_k alpha_k (z_k - 1), and are registered as such, with their parents and alphas.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from zfleet.errors import SpecError
from zfleet_cli.commands.experts import find_version, print_version
from zfleet_cli.options import AsJson, BaseSlug, Reference, Registry
from zfleet_cli.registering import Planned

Name = Annotated[str, typer.Option("--name", help="The name of the new expert.", show_default=False)]
NotRegistered = Annotated[
    bool, typer.Option("--dry-run", help="Compute it and print its provenance; register nothing.")
]


def mix(
    parts: Annotated[
        list[str], typer.Argument(metavar="EXPERT=ALPHA...", help="math=0.6 code/3=0.4", show_default=False)
    ],
    name: Name,
    registry: Registry = None,
    base: BaseSlug = None,
    dry_run: NotRegistered = False,
    as_json: AsJson = False,
) -> None:
    """Register a mixture of experts: z = 1 + the sum of alpha (z_k - 1). An alpha of 0 is the base."""
    pairs = []
    for part in parts:
        reference, equals, alpha = part.rpartition("=")
        if not equals:
            raise SpecError(f"{part!r} has no alpha", "write the expert, '=' and a number: math=0.6")
        pairs.append((reference, _number(part, alpha)))
    _combine("mix", pairs, name, registry, base, dry_run, as_json)


def negate(
    reference: Reference,
    name: Name,
    registry: Registry = None,
    base: BaseSlug = None,
    dry_run: NotRegistered = False,
    as_json: AsJson = False,
) -> None:
    """Register the opposite of an expert: z' = 1 - (z - 1)."""
    _combine("negate", [(reference, -1.0)], name, registry, base, dry_run, as_json)


def scale(
    reference: Reference,
    by: Annotated[float, typer.Option("--by", help="The factor; negative ones turn the change round.")],
    name: Name,
    registry: Registry = None,
    base: BaseSlug = None,
    dry_run: NotRegistered = False,
    as_json: AsJson = False,
) -> None:
    """Register an expert with its change scaled: z' = 1 + c (z - 1)."""
    _combine("scale", [(reference, by)], name, registry, base, dry_run, as_json)


def interpolate(
    first: Annotated[str, typer.Argument(metavar="A", help="The expert at 0.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="The expert at 1.", show_default=False)],
    at: Annotated[float, typer.Option("--at", help="0 is A, 1 is B; beyond them it extrapolates.")],
    name: Name,
    registry: Registry = None,
    base: BaseSlug = None,
    dry_run: NotRegistered = False,
    as_json: AsJson = False,
) -> None:
    """Register a point on the line through two experts: z' = (1 - t) z_A + t z_B."""
    _combine("interpolate", [(first, 1.0 - at), (second, at)], name, registry, base, dry_run, as_json)


def _number(part: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"{part!r} has alpha {text!r}, which is no number", "write a number: math=0.6") from None


def _combine(
    operation: str,
    pairs: Sequence[tuple[str, float]],
    name: str,
    registry: str | None,
    base: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    from zfleet.svf.mixture import mix as mix_z
    from zfleet_registry import ExpertRegistry, Parent, Provenance
    from zfleet_registry.references import check_name, split_slug

    check_name(name)
    experts = ExpertRegistry(registry)
    versions = [find_version(experts, reference, base) for reference, _ in pairs]
    seen: set[str] = set()
    for version, (reference, _) in zip(versions, pairs, strict=True):
        if version.qualified in seen:
            raise SpecError(f"{version.qualified} is named twice ({reference})", "name each version once")
        seen.add(version.qualified)
    alphas = [alpha for _, alpha in pairs]
    z = mix_z([experts.load(version) for version in versions], alphas)
    parents = tuple(
        Parent(version.reference, version.z_digest, alpha) for version, alpha in zip(versions, alphas, strict=True)
    )
    spec = json.dumps({operation: {parent.reference: parent.alpha for parent in parents}})
    provenance = Provenance.of(z, spec=spec, parents=parents, kind="mixture")
    planned = Planned(name, split_slug(versions[0].base_slug)[0], z, provenance)
    if not dry_run:
        print_version(planned.register(experts), as_json)
    elif as_json:
        typer.echo(json.dumps(planned.to_plain(), indent=2))
    else:
        planned.print()
