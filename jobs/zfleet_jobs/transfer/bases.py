"""The two bases of a transfer, compared before anything is computed."""

from __future__ import annotations

from pathlib import Path

from zfleet.config.specs import BaseSpec
from zfleet.config.transfer import TransferSpec
from zfleet.errors import SpecError
from zfleet.models.base import local_folder
from zfleet.models.bundle import locate_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.lab.build import lab_folder
from zfleet.models.matrices import target_matrices
from zfleet.svf.transfer import check_same_shapes


def origin_of(spec: TransferSpec) -> BaseSpec:
    """Return the base that the experts were trained on, with the targets of the other one."""
    return spec.base.model_copy(update={"model": spec.origin.model, "name": spec.origin.name})


def check_bases(spec: TransferSpec) -> None:
    """Refuse bases that experts cannot be transferred between; no weight is read, and nothing is decomposed.

    Raises:
        BaseModelError: A base cannot be found.
        SpecError: Both are the same one.
        WrongBase: They differ in a target matrix; names it.
    """
    folders = [locate_base(base)[1] for base in (origin_of(spec), spec.base)]
    first, second = (target_matrices(folder, fingerprint(folder), spec.base.targets) for folder in folders)
    if first.base == second.base:
        raise SpecError(
            f"origin.model {spec.origin.model!r} and base.model {spec.base.model!r} are the same base",
            "name two different bases",
        )
    origin, to = ({one.name: one.shape for one in matrices.matrices} for matrices in (first, second))
    check_same_shapes(origin, to)


def both_here(spec: TransferSpec) -> bool:
    """Return whether both bases are on this machine, and need neither be built nor fetched.

    Raises:
        BaseModelError: One is written as a path, and there is no such folder.
    """
    return all(_folder_here(model) is not None for model in (spec.origin.model, spec.base.model))


def _folder_here(model: str) -> Path | None:
    if model != "lab":
        return local_folder(model)
    folder = lab_folder()
    return folder if folder.is_dir() else None
