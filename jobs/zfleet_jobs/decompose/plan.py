"""The plan of a decomposition: its matrices, what they take, and which are finished. Computes nothing, without Ray."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from zfleet.config.specs import BaseSpec
from zfleet.errors import FactorsError
from zfleet.models.base import base_slug
from zfleet.models.bundle import locate_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.matrices import target_matrices
from zfleet.paths import cache_root
from zfleet.svf.cache import FactorCache
from zfleet.svf.matrix_file import read_header
from zfleet.svf.stored import StoredMatrix, TargetMatrices
from zfleet_jobs.decompose.memory import task_bytes

DTYPE = torch.float32
"""Of the factors that are stored."""


@dataclass(frozen=True)
class PlannedMatrix:
    """One matrix of a base.

    Attributes:
        matrix: Module path.
        shape: m and n.
        stored_bytes: What it takes in the base's file.
        factors_bytes: What its factors take.
        memory_bytes: What its task takes at most.
        finished: Whether its factors are there.
    """

    matrix: str
    shape: tuple[int, int]
    stored_bytes: int
    factors_bytes: int
    memory_bytes: int
    finished: bool


@dataclass(frozen=True)
class DecomposePlan:
    """The plan of a job.

    Attributes:
        base: Name and fingerprint of the base.
        targets: Which matrices were chosen.
        folder: Where the factors go.
        free_bytes: Room on the disk there.
        matrices: In the order of the base's modules.
    """

    base: str
    targets: str
    folder: str
    free_bytes: int
    matrices: tuple[PlannedMatrix, ...]


def open_matrices(spec: BaseSpec) -> tuple[str, TargetMatrices]:
    """Find the slug and target matrices of a base: its files are read once, and no model is loaded.

    Raises:
        BaseModelError: No base, or one that cannot be decomposed.
        SpecError: Its ``targets`` choose nothing.
    """
    name, folder = locate_base(spec)
    # Errors in targets or files show in a second; the fingerprint of a big base takes minutes.
    matrices = target_matrices(folder, "", spec.targets)
    with Console(stderr=True).status(f"reading {folder}"):
        base = fingerprint(folder)
    return base_slug(name, base), replace(matrices, base=base)


def factor_cache() -> FactorCache:
    """Open the cache that all jobs share."""
    return FactorCache(cache_root() / "factors")


def plan_decompose(spec: BaseSpec) -> DecomposePlan:
    """Plan what decomposing a base takes, and what of it is done.

    Raises:
        BaseModelError, SpecError: As ``open_matrices``.
    """
    slug, matrices = open_matrices(spec)
    folder = factor_cache().folder(matrices.base, matrices.targets, DTYPE)
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    planned = tuple(_planned(matrix, folder) for matrix in matrices.matrices)
    return DecomposePlan(slug, matrices.targets, str(folder), shutil.disk_usage(there).free, planned)


def _planned(matrix: StoredMatrix, folder: Path) -> PlannedMatrix:
    m, n = matrix.shape
    r = min(m, n)
    try:
        finished = read_header(folder, matrix.name, "").shape == matrix.shape
    except FactorsError:
        finished = False
    return PlannedMatrix(
        matrix.name,
        matrix.shape,
        m * n * matrix.dtype.itemsize,
        (m * r + r + r * n) * DTYPE.itemsize,
        task_bytes(matrix),
        finished,
    )
