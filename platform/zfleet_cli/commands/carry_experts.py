"""``zfleet experts carry``: register an expert for another base that holds the same matrices."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from zfleet.config.specs import BaseSpec
from zfleet.errors import SpecError
from zfleet_cli.commands.experts import find_version, print_version, slug_of
from zfleet_cli.factors import compute_factors
from zfleet_cli.options import AsJson, Reference, Registry
from zfleet_cli.registering import Planned


def carry(
    reference: Reference,
    origin: Annotated[str, typer.Option("--from", metavar="MODEL", help="The base it was trained on.")],
    to: Annotated[str, typer.Option("--to", metavar="MODEL", help="A base that holds the same matrices.")],
    registry: Registry = None,
    as_json: AsJson = False,
) -> None:
    """Register an expert for another base with the same matrices.

    An example is a vision-language model whose language tower is the base that the expert was trained on. All matrices
    are compared; if one differs, nothing is registered.
    """
    from zfleet.models.base import base_name
    from zfleet.models.bundle import locate_base
    from zfleet.models.fingerprint import fingerprint
    from zfleet.models.licence import licence_of
    from zfleet.svf.carry import carry as carry_to
    from zfleet_registry import ExpertRegistry

    experts = ExpertRegistry(registry)
    folders = [locate_base(BaseSpec(model=model))[1] for model in (origin, to)]
    origin_base, target_base = map(fingerprint, folders)
    if origin_base == target_base:
        raise SpecError(f"--from {origin!r} and --to {to!r} are the same base", "name two different bases")
    version = find_version(experts, reference, slug_of(experts, origin_base))
    z = experts.load(version)
    specs = (BaseSpec(model=model, targets=z.targets) for model in (origin, to))
    carried = carry_to(z, *(compute_factors(spec).load() for spec in specs))
    provenance = replace(
        version.provenance,
        base=carried.base,
        factors=carried.factors,
        z_digest=carried.digest,
        metrics={},
        intervals={},
        licence=licence_of(folders[1]),
        carried_from=version.qualified,
    )
    planned = Planned(version.name, base_name(to), carried, provenance)
    print_version(planned.register(experts), as_json)
