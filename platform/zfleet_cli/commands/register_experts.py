"""``zfleet experts import``: an expert from a file of Transformer²'s reference implementation."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from zfleet.config.specs import BaseSpec
from zfleet_cli.commands.experts import Registry, print_version
from zfleet_cli.factors import open_factors
from zfleet_cli.options import AsJson
from zfleet_cli.output import print_fields


def import_expert(
    file: Annotated[Path, typer.Argument(help="policy_params.pt or learnable_params.pt", show_default=False)],
    model: Annotated[str, typer.Option("--base", metavar="MODEL", help="The base it was trained on.")],
    name: Annotated[str, typer.Option("--name", help="What the expert is called.")],
    registry: Registry = None,
    as_json: AsJson = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file against the base, and register nothing.")
    ] = False,
) -> None:
    """Register an expert that the reference implementation of Transformer² trained.

    Nothing in the file is run. Importing it again registers nothing new.
    """
    from zfleet.models.base import base_slug
    from zfleet.models.bundle import locate_base
    from zfleet.models.fingerprint import fingerprint
    from zfleet.models.matrices import target_matrices
    from zfleet.svf.reference import TARGETS, read_reference
    from zfleet_registry import ExpertRegistry, Provenance
    from zfleet_registry.references import check_name
    from zfleet_registry.registry import REGISTRATIONS

    check_name(name)
    if not dry_run:
        ExpertRegistry(registry).check_experiments(REGISTRATIONS)
    found = read_reference(file)
    base, folder = locate_base(BaseSpec(model=model))
    digest = fingerprint(folder)
    targets = found.targets_on({targets: target_matrices(folder, digest, targets).layout for targets in TARGETS})
    z = found.z_on(open_factors(BaseSpec(model=model, targets=targets)))
    provenance = replace(
        Provenance.of(z, task="imported", spec=json.dumps({"import": found.kind})),
        imported_from=f"{file.name} sha256:{found.sha256}",
    )
    slug = base_slug(base, digest)
    if dry_run:
        values = {"name": name, "base_slug": slug, "provenance": asdict(provenance)}
        if as_json:
            typer.echo(json.dumps(values, indent=2))
        else:
            print_fields(asdict(provenance), f"{slug}.{name} would be registered")
        return
    experts = ExpertRegistry(registry)
    there = [one for one in experts.list() if one.name == name and one.z_digest == z.digest]
    print_version(there[0] if there else experts.register(name, z, provenance, base_name=base), as_json)
