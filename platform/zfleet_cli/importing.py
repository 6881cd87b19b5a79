"""What ``zfleet experts import`` reads: each format becomes experts that can be registered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zfleet.config.specs import BaseSpec
from zfleet.errors import FormatError, SpecError, WrongBase
from zfleet.formats.lora_import import LoraAdapter, is_adapter, read_adapter
from zfleet.formats.merged_import import ChangedCheckpoint, read_checkpoint
from zfleet.formats.projection import Residual
from zfleet.models.base import base_slug
from zfleet.models.bundle import locate_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.licence import licence_of
from zfleet.models.matrices import module_paths, target_matrices
from zfleet.svf.layout import narrowest_preset
from zfleet.svf.reference_implementation import TARGETS, read_reference
from zfleet_cli.factors import compute_factors
from zfleet_cli.options import Z_SUFFIX
from zfleet_cli.registering import Planned
from zfleet_registry import Provenance, z_file
from zfleet_registry.references import check_name, parse, split_slug

_FORMATS = (
    "give an adapter's folder or one that holds several, a checkpoint's folder, a z.safetensors or a folder of them, a "
    "bundle.zip, or a policy_params.pt or learnable_params.pt"
)


@dataclass(frozen=True, eq=False)
class Imported:
    """An expert in another format, as a z.

    Attributes:
        planned: What can be registered.
        residuals: What the z leaves out, matrix by matrix; empty where nothing can be left out.
    """

    planned: Planned
    residuals: Sequence[Residual] = ()


@dataclass(frozen=True)
class Into:
    """Where experts are imported to.

    Attributes:
        model: The base, as in ``base.model``.
        name: What people call it.
        folder: Its folder.
        fingerprint: Its fingerprint.
        targets: The matrices that the z scale; None: the fewest that a preset has.
    """

    model: str
    name: str
    folder: Path
    fingerprint: str
    targets: str | None

    @classmethod
    def open(cls, model: str | None, targets: str | None) -> Into:
        """Find the base.

        Raises:
            SpecError: It is not named.
        """
        if model is None:
            raise SpecError("--base is not given: this format does not say it", "name the base: --base MODEL")
        name, folder = locate_base(BaseSpec(model=model))
        return cls(model, name, folder, fingerprint(folder), targets)

    def planned(
        self, change: LoraAdapter | ChangedCheckpoint, matrices: Iterable[str], name: str, kind: str, origin: str
    ) -> Imported:
        """Project a change onto the base's singular directions, whose factors are computed the first time."""
        targets = self.targets or narrowest_preset(matrices)
        z, residuals = change.z_on(compute_factors(BaseSpec(model=self.model, targets=targets)))
        relative = {row.matrix: round(row.relative, 6) for row in residuals}
        provenance = replace(
            Provenance.of(
                z,
                task="imported",
                spec=json.dumps({"import": kind, "residuals": relative}),
                metrics={"residual": Residual.total(residuals).relative},
                licence=licence_of(self.folder),
            ),
            imported_from=origin,
        )
        return Imported(Planned(name, self.name, z, provenance), residuals)


def read_experts(path: Path, model: str | None, name: str | None, targets: str | None) -> list[Imported]:
    """Read experts in any format but a bundle, by the kind of file or folder.

    Args:
        path: A file or folder.
        model: The base; None if the file says it.
        name: Of the expert; None if the file, or the folders in a folder, say it.
        targets: See ``Into``.

    Raises:
        ZfleetError: The path cannot be read as any format, or an option is missing or has no effect; says which.
    """
    read = _reader(path)
    if targets is not None and read not in (_adapter, _adapters, _checkpoint):
        raise SpecError(f"--targets has no effect on {path}, which says it itself", "leave it out")
    if read is _adapters:
        if name is not None:
            raise SpecError(f"--name is {name!r}, but {path} holds several adapters", "each has its folder's name")
    elif name is not None:
        check_name(name)
    elif read is not _z:
        raise SpecError(f"--name is not given: {path} says none", "name the expert: --name math")
    return read(path, model, name, targets)


def many_files(path: Path) -> list[Path]:
    """Return the z.safetensors files of a folder and those below, sorted; none if the folder is of another format."""
    if (
        not path.is_dir()
        or (path / "config.json").is_file()
        or is_adapter(path)
        or any(map(is_adapter, path.iterdir()))
    ):
        return []
    return sorted(path.rglob(f"*{Z_SUFFIX}"))


Reader = Callable[[Path, str | None, str | None, str | None], list[Imported]]


def _reader(path: Path) -> Reader:
    if path.is_dir():
        if is_adapter(path):
            return _adapter
        if (path / "config.json").is_file():
            return _checkpoint
        if any(map(is_adapter, path.iterdir())):
            return _adapters
        raise FormatError(f"{path} holds neither an adapter nor a checkpoint", _FORMATS)
    if not path.exists():
        raise FormatError(f"{path} is not there", _FORMATS)
    return _z if path.suffix == Z_SUFFIX else _reference


def _adapter(path: Path, model: str | None, name: str | None, targets: str | None) -> list[Imported]:
    into = Into.open(model, targets)
    matrices = target_matrices(into.folder, into.fingerprint, targets or "all")
    adapter = read_adapter(path, matrices, module_paths(into.folder, [one.name for one in matrices.matrices]))
    return [into.planned(adapter, adapter.products, str(name), "lora", f"{path.name} sha256:{adapter.sha256}")]


def _adapters(path: Path, model: str | None, name: str | None, targets: str | None) -> list[Imported]:
    folders = sorted(one for one in path.iterdir() if is_adapter(one))
    for folder in folders:
        check_name(folder.name)
    return [imported for folder in folders for imported in _adapter(folder, model, folder.name, targets)]


def _checkpoint(path: Path, model: str | None, name: str | None, targets: str | None) -> list[Imported]:
    into = Into.open(model, targets)
    changed = read_checkpoint(path, into.folder, targets or "all")
    return [into.planned(changed, changed.matrices, str(name), "merged", f"{path.name} {changed.fingerprint}")]


def _z(path: Path, model: str | None, name: str | None, targets: str | None) -> list[Imported]:
    z, full, provenance = z_file.read(path)
    named = parse(full) if full else None
    slug, own = (named.base_slug or "", named.name) if named else ("", "")
    if model is not None:
        into = Into.open(model, None)
        if into.fingerprint != z.base:
            raise WrongBase(
                f"{path} belongs to base {z.base[:12]}, --base {model} is {into.fingerprint[:12]}",
                "name the base that the expert was trained on",
            )
        slug = base_slug(into.name, z.base)
    if not slug or not (name or own):
        raise SpecError(f"{path} says no base or no name", "give both: --base MODEL --name math")
    base_name, digits = split_slug(slug)
    if digits != z.base[: len(digits)]:
        raise FormatError(f"{path} is named {full}, and its z belongs to base {z.base[:12]}", "give --base and --name")
    return [Imported(Planned(name or own, base_name, z, provenance))]


def _reference(path: Path, model: str | None, name: str | None, targets: str | None) -> list[Imported]:
    imported = read_reference(path)
    into = Into.open(model, None)
    layouts = {one: target_matrices(into.folder, into.fingerprint, one).layout for one in TARGETS}
    found = imported.targets_on(layouts)
    z = imported.z_on(compute_factors(BaseSpec(model=into.model, targets=found)).load())
    provenance = replace(
        Provenance.of(z, task="imported", spec=json.dumps({"import": imported.kind}), licence=licence_of(into.folder)),
        imported_from=f"{path.name} sha256:{imported.sha256}",
    )
    return [Imported(Planned(str(name), into.name, z, provenance))]
