"""The factor cache: computed once per base, a file per matrix, resumable, verified on every load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from zfleet.errors import FactorsError
from zfleet.files import write_atomic
from zfleet.locks import alone
from zfleet.svf.decompose import DecomposedMatrix, decompose_matrix
from zfleet.svf.digest import combine_digests
from zfleet.svf.factors import Factors
from zfleet.svf.folder import MANIFEST, FactorFolder, Manifest
from zfleet.svf.layout import PRESETS
from zfleet.svf.matrix_file import SUFFIX
from zfleet.svf.stored import StoredMatrix, TargetMatrices

_LAYOUT = 2
"""Version of the folder layout: a file for each matrix. Folders of version 1, a file for each layer, stay untouched."""

Decomposer = Callable[[Sequence[StoredMatrix], Path, torch.dtype], Iterable[DecomposedMatrix]]
"""Decomposes matrices into a folder, and yields each as it is finished, in any order."""


def one_by_one(matrices: Sequence[StoredMatrix], folder: Path, dtype: torch.dtype) -> Iterator[DecomposedMatrix]:
    """Decompose matrices in this process, one after the other."""
    for matrix in matrices:
        yield decompose_matrix(matrix, folder, dtype)


@dataclass(frozen=True)
class FactorCache:
    """Factors under ``root``, addressed by fingerprint, targets and dtype."""

    root: Path

    def folder(self, base: str, targets: str, dtype: torch.dtype = torch.float32) -> Path:
        """Name the folder of the factors of a base."""
        # Patterns that differ in punctuation alone must not share a folder.
        slug = targets if targets in PRESETS else f"pattern-{hashlib.sha256(targets.encode()).hexdigest()[:16]}"
        return self.root / f"{base[:32]}-{slug}-{str(dtype).removeprefix('torch.')}-{_LAYOUT}"

    def targets_of(self, base: str) -> list[str]:
        """List the targets of a base whose factors are complete.

        Raises:
            FactorsError: A manifest is damaged; names it.
        """
        targets = set()
        for path in self.root.glob(f"{base[:32]}-*-{_LAYOUT}/{MANIFEST}"):
            try:
                targets.add(Manifest.parse(path.read_bytes()).targets)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise FactorsError(f"{path} is damaged: {error!r}", f"delete {path.parent}") from error
        return sorted(targets)

    def get(self, matrices: TargetMatrices, dtype: torch.dtype = torch.float32, by: Decomposer = one_by_one) -> Factors:
        """Load the factors of a base, computing what is missing: ``compute``, then all of them in memory.

        Raises:
            BaseModelError, FactorsError: As ``compute``, or a file is damaged.
        """
        return self.compute(matrices, dtype, by).load()

    def compute(
        self, matrices: TargetMatrices, dtype: torch.dtype = torch.float32, by: Decomposer = one_by_one
    ) -> FactorFolder:
        """Compute what is missing of a base's factors; never more than what ``by`` works on is in memory.

        A computation that was stopped goes on with the matrices that it had not finished: each file is written
        atomically, and the manifest last. One process computes, others wait for it.

        Args:
            matrices: The matrices, in the base's files.
            dtype: What the factors are stored in; the SVD itself runs in float64.
            by: Decomposes them.

        Raises:
            BaseModelError: A matrix cannot be read.
            FactorsError: A matrix is not finite, the disk is full, or the folder is damaged or of other targets.
        """
        folder = self.folder(matrices.base, matrices.targets, dtype)
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / ".lock", f"computes the factors in {folder}"):
            if not (folder / MANIFEST).exists():
                # A kill while a file was written leaves these.
                for leftover in folder.glob(f".*{SUFFIX}.*"):
                    leftover.unlink(missing_ok=True)
                done = {one.matrix: one.digest for one in by(matrices.matrices, folder, dtype)}
                digests = {matrix.name: done[matrix.name] for matrix in matrices.matrices}
                digest = combine_digests(matrices.base, matrices.targets, digests.values())
                manifest = Manifest(matrices.base, matrices.targets, digests, digest)
                write_atomic(folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
        return FactorFolder(folder, matrices.base, matrices.targets)
