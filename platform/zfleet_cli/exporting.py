"""What ``zfleet experts export`` writes: each format, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from zfleet.config.specs import BaseSpec
from zfleet.errors import SpecError, WrongBase
from zfleet.files import write_atomic, write_folder
from zfleet.formats.card import CARD, adapter_card, merged_card
from zfleet.formats.lora_export import Keep, Truncation, export_lora
from zfleet.formats.merged_export import export_merged
from zfleet.formats.projection import Residual
from zfleet.models.bundle import locate_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.matrices import module_paths
from zfleet.svf.directions import fewest_directions, largest_directions
from zfleet.svf.folder import FactorFolder
from zfleet.svf.zvector import ZVector
from zfleet_cli.commands.experts import find_version, slug_of
from zfleet_cli.factors import factors_of
from zfleet_registry import ExpertRegistry, ExpertVersion, z_file

FULL = "full"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        versions: Qualified references.
        summary: For people.
        matrices: A row for each matrix; empty if nothing was computed.
    """

    versions: list[str]
    summary: dict[str, str]
    matrices: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Source:
    """An expert, opened to be written.

    Attributes:
        version: Of the expert.
        z: Its values.
        factors: Those that it was trained on.
        model: What people call the base.
        base: The base's folder.
    """

    version: ExpertVersion
    z: ZVector
    factors: FactorFolder
    model: str
    base: Path

    @classmethod
    def open(cls, experts: ExpertRegistry, reference: str, model: str) -> Source:
        """Open an expert of a base.

        Raises:
            WrongBase: It belongs to another base.
            FactorsError: Its factors are not on this machine.
        """
        _, base = locate_base(BaseSpec(model=model))
        digest = fingerprint(base)
        version = find_version(experts, reference, slug_of(experts, digest))
        z = experts.load(version)
        if z.base != digest:
            raise WrongBase(
                f"{version.qualified} belongs to base {z.base[:12]}, --base {model} is {digest[:12]}",
                "name the base that the expert was trained on",
            )
        return cls(version, z, factors_of(z), model, base)

    def as_lora(self, out: Path, rank: str | None, max_error: float | None, dtype: str) -> Exported:
        """Write a LoRA adapter with its card into a new folder."""
        keep = _keep(rank, max_error)
        paths = module_paths(self.base, self.factors.names)
        rows: list[Truncation] = []

        def fill(folder: Path) -> None:
            rows.extend(
                export_lora(
                    self.z,
                    self.factors,
                    paths,
                    folder,
                    keep=keep,
                    dtype=getattr(torch, dtype),
                    base_model=self.model,
                    metadata=self._metadata,
                )
            )
            (folder / CARD).write_text(adapter_card(self.version.qualified, self.model, self._facts, rows))

        write_folder(out, fill)
        ranks = sorted({row.rank for row in rows})
        total = Residual.total(Residual(row.matrix, row.change, row.missing) for row in rows)
        summary = {
            "rank": str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}",
            "missing": f"{total.relative:.3%} of the change",
        }
        return Exported([self.version.qualified], summary, [asdict(row) | {"relative": row.relative} for row in rows])

    def as_merged(self, out: Path, dtype: str | None) -> Exported:
        """Write the base with the expert in its weights, with its card, into a new folder."""
        rows: list[Residual] = []
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())

        def fill(folder: Path) -> None:
            with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
                task = bar.add_task(f"merging {self.version.qualified}", total=None)
                rows.extend(
                    export_merged(
                        self.z,
                        self.factors,
                        self.base,
                        folder,
                        dtype=None if dtype is None else getattr(torch, dtype),
                        advance=lambda done: bar.advance(task, done),
                        metadata=self._metadata,
                    )
                )
            (folder / CARD).write_text(merged_card(self.version.qualified, self.model, self._facts, rows))

        write_folder(out, fill)
        summary = {"rounding": f"{Residual.total(rows).relative:.3g} of the change"}
        return Exported([self.version.qualified], summary, [asdict(row) | {"relative": row.relative} for row in rows])

    @property
    def _facts(self) -> dict[str, str]:
        return {"version": self.version.qualified, **self.version.provenance.to_strings()}

    @property
    def _metadata(self) -> dict[str, str]:
        return {"zfleet": json.dumps(self._facts, sort_keys=True)}


def as_z(experts: ExpertRegistry, reference: str, out: Path) -> Exported:
    """Write an expert's z, with its provenance in the file."""
    version = find_version(experts, reference, None)
    write_atomic(out, z_file.to_bytes(experts.load(version), version))
    return Exported([version.qualified], {"z digest": version.z_digest}, [])


def as_bundle(experts: ExpertRegistry, references: Sequence[str], out: Path) -> Exported:
    """Write experts and dispatchers with all their parents into one file."""
    from zfleet_registry.bundles import write_bundle

    written = write_bundle(experts, [find_version(experts, one, None) for one in references], out)
    return Exported([one.qualified for one in written.versions], {"sha256": written.sha256}, [])


def _keep(rank: str | None, max_error: float | None) -> Keep:
    if max_error is not None:
        return partial(fewest_directions, error=max_error)
    if rank is None or rank == FULL:
        # More than any matrix has: all directions are kept.
        return partial(largest_directions, k=2**31)
    if not rank.isdecimal() or int(rank) < 1:
        raise SpecError(f"--rank is {rank!r}", f"give a number of 1 or more, or {FULL}")
    return partial(largest_directions, k=int(rank))
