"""The decomposition of one matrix, from the base's file to its own: the unit of work, here or on a cluster."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from zfleet.errors import FactorsError
from zfleet.svf.factors import decompose
from zfleet.svf.matrix_file import FileHeader, map_matrix, read_header, write_matrix
from zfleet.svf.stored import StoredMatrix


@dataclass(frozen=True)
class DecomposedMatrix:
    """One matrix whose factors are in their file.

    Attributes:
        matrix: Module path.
        shape: m and n.
        error: Frobenius norm of W - U diag(s) Vh over that of W, of the factors as they are stored.
        seconds: That it took; None if it had been finished before.
        digest: Of name and factors.
    """

    matrix: str
    shape: tuple[int, int]
    error: float
    seconds: float | None
    digest: str

    @classmethod
    def of(cls, name: str, header: FileHeader, seconds: float | None) -> DecomposedMatrix:
        """Make one of a matrix whose file says ``header``."""
        return cls(name, header.shape, header.error, seconds, header.digest)


def decompose_matrix(matrix: StoredMatrix, folder: Path, dtype: torch.dtype) -> DecomposedMatrix:
    """Read one matrix, decompose it and write its factors; a matrix that is finished already is not computed again.

    Its memory is bounded by ``peak_bytes``, whatever the size of base and file.

    Args:
        matrix: Of the base.
        folder: Where the factors go; it exists, and all machines share it.
        dtype: What the factors are stored in; the SVD itself runs in float64.

    Raises:
        BaseModelError: The matrix cannot be read.
        FactorsError: It holds NaN or infinite values (matrix and file are named), or the factors cannot be written.
    """
    if not folder.is_dir():
        raise FactorsError(
            f"{folder} is not there on {socket.gethostname()}",
            "set ZFLEET_CACHE to a folder that all machines share",
        )
    if (header := finished(matrix, folder, dtype)) is not None:
        return DecomposedMatrix.of(matrix.name, header, None)
    start = time.perf_counter()
    weight = matrix.read()
    factors = decompose(weight, dtype, f"{matrix.name} in {matrix.file}")
    header = write_matrix(folder, matrix.name, factors, factors.error(weight))
    return DecomposedMatrix.of(matrix.name, header, time.perf_counter() - start)


def finished(matrix: StoredMatrix, folder: Path, dtype: torch.dtype) -> FileHeader | None:
    """Read the header of a matrix's file if it is whole, every byte read; None if it has to be computed."""
    try:
        header = read_header(folder, matrix.name, "")
        factors = map_matrix(folder, matrix.name, header.digest, "")
    except FactorsError:
        return None
    return header if header.shape == matrix.shape and factors.s.dtype == dtype else None


def peak_bytes(shape: Sequence[int]) -> int:
    """Bound the memory that decomposing a matrix [m, n] takes, in bytes, beside what the process has anyway.

    W in float32, twice in float64 (LAPACK overwrites its own), U and Vh, and 6 r^2 for LAPACK's ``gesdd`` to work in:
    84 bytes for each number of a square matrix, 21 times what it takes in float32, and less for others.
    """
    m, n = shape
    r = min(m, n)
    return 4 * m * n + 8 * (2 * m * n + m * r + r * n + 6 * r * r)
