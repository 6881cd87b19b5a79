"""``zfleet decompose``: from a spec's base to its factors in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from zfleet.config.specs import BaseSpec
from zfleet.svf.decompose import DecomposedMatrix
from zfleet.svf.stored import StoredMatrix
from zfleet_cluster import cluster
from zfleet_jobs.decompose.display import decompose_display
from zfleet_jobs.decompose.plan import DTYPE, factor_cache, open_matrices
from zfleet_jobs.decompose.tasks import decompose_on_ray


@dataclass(frozen=True)
class Decomposition:
    """The factors of a base.

    Attributes:
        base: Name and fingerprint of the base.
        targets: Which matrices were chosen.
        folder: Of the factors.
        digest: Their identity.
        matrices: In the order of the base's modules.
    """

    base: str
    targets: str
    folder: str
    digest: str
    matrices: tuple[DecomposedMatrix, ...]


def run_decompose(spec: BaseSpec, address: str | None = None, memory_gib: float | None = None) -> Decomposition:
    """Decompose the target matrices of a base, each in a Ray task that reads it from the base's files.

    A job that was stopped goes on with the matrices that it had not finished; without any it needs no cluster.

    Args:
        spec: The base. On several machines its folder and the cache are the same for all.
        address: A running Ray cluster; by default one is started on this machine for the job.
        memory_gib: How much all tasks together may take; by default what the cluster has.

    Raises:
        BaseModelError, SpecError: No base, or one that cannot be decomposed.
        FactorsError: A matrix is not finite, the disk is full, or factors that are there are damaged.
        ClusterError, JobError: No cluster, not enough memory, or workers that die again and again.
        KeyboardInterrupt: Ctrl-C; running it again goes on.
    """
    slug, matrices = open_matrices(spec)
    memory = None if memory_gib is None else int(memory_gib * 2**30)
    computed: dict[str, DecomposedMatrix] = {}

    def on_ray(todo: Sequence[StoredMatrix], folder: Path, dtype: torch.dtype) -> Iterator[DecomposedMatrix]:
        with cluster(address), decompose_display(slug, todo) as show:
            for matrix in decompose_on_ray(todo, folder, dtype, memory):
                computed[matrix.matrix] = matrix
                show(matrix)
                yield matrix

    factors = factor_cache().compute(matrices, DTYPE, on_ray)
    rows = [computed.get(name) or DecomposedMatrix.of(name, header, None) for name, header in factors.headers.items()]
    return Decomposition(slug, matrices.targets, str(factors.path), factors.digest, tuple(rows))
