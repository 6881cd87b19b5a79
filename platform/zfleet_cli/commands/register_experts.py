"""``zfleet experts carry`` and ``zfleet experts import``: register experts that another base or program trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from zfleet.config.specs import BaseSpec
from zfleet.errors import SpecError
from zfleet_cli.commands.experts import find_version, print_version
from zfleet_cli.options import AsJson, Reference, Registry
from zfleet_cli.output import print_fields

if TYPE_CHECKING:
    import torch

    from zfleet.svf.decompose import DecomposedMatrix
    from zfleet.svf.factors import Factors
    from zfleet.svf.stored import StoredMatrix
    from zfleet.svf.zvector import ZVector
    from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance


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
    version = find_version(experts, reference, _slug_of(experts, origin_base))
    z = experts.load(version)
    origin_factors, target_factors = (open_factors(BaseSpec(model=model, targets=z.targets)) for model in (origin, to))
    carried = carry_to(z, origin_factors, target_factors)
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
    print_version(_register_once(experts, version.name, carried, provenance, base_name(to)), as_json)


def import_expert(
    file: Annotated[Path, typer.Argument(help="policy_params.pt or learnable_params.pt", show_default=False)],
    model: Annotated[str, typer.Option("--base", metavar="MODEL", help="The base it was trained on.")],
    name: Annotated[str, typer.Option("--name", help="The name of the expert.")],
    registry: Registry = None,
    as_json: AsJson = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file against the base, and register nothing.")
    ] = False,
) -> None:
    """Register an expert that the reference implementation of Transformer² trained.

    No code in the file is run. Importing a file again registers nothing new.
    """
    from zfleet.models.base import base_slug
    from zfleet.models.bundle import locate_base
    from zfleet.models.fingerprint import fingerprint
    from zfleet.models.licence import licence_of
    from zfleet.models.matrices import target_matrices
    from zfleet.svf.reference_implementation import TARGETS, read_reference
    from zfleet_registry import ExpertRegistry, Provenance
    from zfleet_registry.references import check_name
    from zfleet_registry.registry import REGISTRATIONS

    check_name(name)
    if not dry_run:
        ExpertRegistry(registry).check_experiments(REGISTRATIONS)
    imported = read_reference(file)
    base, folder = locate_base(BaseSpec(model=model))
    digest = fingerprint(folder)
    targets = imported.targets_on({targets: target_matrices(folder, digest, targets).layout for targets in TARGETS})
    z = imported.z_on(open_factors(BaseSpec(model=model, targets=targets)))
    provenance = replace(
        Provenance.of(z, task="imported", spec=json.dumps({"import": imported.kind}), licence=licence_of(folder)),
        imported_from=f"{file.name} sha256:{imported.sha256}",
    )
    slug = base_slug(base, digest)
    if dry_run:
        values = {"name": name, "base_slug": slug, "provenance": asdict(provenance)}
        if as_json:
            typer.echo(json.dumps(values, indent=2))
        else:
            print_fields(asdict(provenance), f"{slug}.{name} would be registered")
        return
    print_version(_register_once(ExpertRegistry(registry), name, z, provenance, base), as_json)


def _register_once(
    experts: ExpertRegistry, name: str, z: ZVector, provenance: Provenance, base_name: str
) -> ExpertVersion:
    """Register a z, or return the version of this name that has it already."""
    return experts.find(name, z) or experts.register(name, z, provenance, base_name=base_name)


def _slug_of(experts: ExpertRegistry, base: str) -> str | None:
    """Return the slug of a base's experts; None if it has no experts, or has them under several slugs."""
    slugs = {version.base_slug for version in experts.list() if version.provenance.base == base}
    return slugs.pop() if len(slugs) == 1 else None


def open_factors(spec: BaseSpec) -> Factors:
    """Open the factors of a base. The first time they are computed, with a progress bar.

    Raises:
        BaseModelError, FactorsError: The base or its factors cannot be read.
    """
    from zfleet.models.bundle import locate_base
    from zfleet.models.fingerprint import fingerprint
    from zfleet.models.matrices import target_matrices
    from zfleet.paths import cache_root
    from zfleet.svf.cache import FactorCache, one_by_one

    name, base = locate_base(spec)

    def with_bar(todo: Sequence[StoredMatrix], folder: Path, dtype: torch.dtype) -> Iterator[DecomposedMatrix]:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            yield from progress.track(one_by_one(todo, folder, dtype), len(todo), description=f"decomposing {name}")

    matrices = target_matrices(base, fingerprint(base), spec.targets)
    return FactorCache(cache_root() / "factors").get(matrices, by=with_bar)
