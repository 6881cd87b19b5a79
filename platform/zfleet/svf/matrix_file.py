"""The file of one matrix's factors: u, s and vh, with their digest and error in the header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch

from zfleet.errors import BaseModelError, FactorsError
from zfleet.files import write_atomic
from zfleet.remembered import remember, remembered
from zfleet.svf.factors import MatrixFactors, matrix_digest
from zfleet.svf.mapped import map_tensors

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class FileHeader:
    """What a file says of the factors in it.

    Attributes:
        digest: Of name and factors.
        error: Frobenius norm of W - U diag(s) Vh over that of W.
        shape: m and n of W.
    """

    digest: str
    error: float
    shape: tuple[int, int]


def matrix_file(folder: Path, name: str) -> Path:
    """Name the file of a matrix's factors."""
    return folder / f"{name}{SUFFIX}"


def write_matrix(folder: Path, name: str, factors: MatrixFactors, error: float) -> FileHeader:
    """Write a matrix's factors, whole or not at all.

    Raises:
        FactorsError: The disk is full, or the folder cannot be written to.
    """
    path = matrix_file(folder, name)
    header = FileHeader(matrix_digest(name, factors), error, factors.shape)
    tensors = {"u": factors.u, "s": factors.s, "vh": factors.vh}
    try:
        data = safetensors.torch.save(tensors, {"digest": header.digest, "error": repr(error)})
        write_atomic(path, data)
        remember("factors", [path], header.digest)
    except OSError as failure:
        raise FactorsError(
            f"the factors of {name} cannot be written to {folder}: {failure}",
            "make room there, or set ZFLEET_CACHE to another folder; the same command goes on where it stopped",
        ) from failure
    return header


def map_matrix(folder: Path, name: str, digest: str, remedy: str) -> MatrixFactors:
    """Map the factors of a matrix, read-only, and check their digest: once, until the file changes.

    Args:
        folder: Of the factors.
        name: The matrix.
        digest: That they must have.
        remedy: What errors advise.

    Raises:
        FactorsError: The file is missing or truncated, or was changed; names it.
    """
    path = matrix_file(folder, name)
    try:
        factors = _mapped(path)
        # Of a mapping of its own, which ends with it: the pages that it reads count for this process until then.
        found = remembered("factors", [path], lambda: matrix_digest(name, _mapped(path)))
    except OSError as error:
        raise FactorsError(f"{path} cannot be read: {error}", remedy) from error
    except (BaseModelError, KeyError) as error:
        raise FactorsError(f"{path} is truncated or damaged: {error}", remedy) from error
    if found != digest:
        raise FactorsError(f"{path} was changed: its digest is not the stored {digest[:12]}", remedy)
    return factors


def _mapped(path: Path) -> MatrixFactors:
    tensors = map_tensors(path)
    return MatrixFactors(tensors["u"], tensors["s"], tensors["vh"])


def read_header(folder: Path, name: str, remedy: str) -> FileHeader:
    """Read the header of a matrix's file; the factors are not read.

    Raises:
        FactorsError: The file is missing or truncated; names it.
    """
    path = matrix_file(folder, name)
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
            m, n = file.get_slice("u").get_shape()[0], file.get_slice("vh").get_shape()[1]
            return FileHeader(metadata["digest"], float(metadata["error"]), (m, n))
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise FactorsError(f"{path} is missing, truncated or damaged: {error}", remedy) from error
