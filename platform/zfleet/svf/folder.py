"""A folder of factors on disk: a file for each matrix, and a manifest that describes them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from zfleet.errors import FactorsError
from zfleet.files import read_or
from zfleet.svf.digest import combine_digests
from zfleet.svf.factors import Factors, LinearFactors, MatrixFactors
from zfleet.svf.layout import ZLayout
from zfleet.svf.matrix_file import FileHeader, map_matrix, matrix_file, read_header
from zfleet.svf.prepared import converted
from zfleet.svf.streamed import Conversion

MANIFEST = "factors.json"


@dataclass(frozen=True)
class Manifest:
    """The description of a folder of factors.

    Attributes:
        base: Fingerprint of the base.
        targets: Which matrices were chosen.
        matrices: {module path: digest}, in the order of the base's modules.
        digest: Of all factors.
    """

    base: str
    targets: str
    matrices: dict[str, str]
    digest: str

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Parse a manifest; raises ValueError, KeyError or TypeError if ``data`` is none."""
        fields = json.loads(data)
        matrices = {str(name): str(digest) for name, digest in dict(fields["matrices"]).items()}
        # Names become paths: refuse any that would leave the folder.
        if odd := [name for name in matrices if not re.fullmatch(r"\w+(\.\w+)*", name)]:
            raise ValueError(f"{odd[0]!r} is no module path")
        return cls(str(fields["base"]), str(fields["targets"]), matrices, str(fields["digest"]))


class FactorFolder:
    """Reads factors matrix by matrix, each verified against the manifest.

    Attributes:
        path: Of the folder.
    """

    def __init__(self, folder: Path, base: str, targets: str) -> None:
        """Read the manifest.

        Args:
            folder: Of the factors.
            base: Fingerprint of the base they must belong to.
            targets: The targets they must have.

        Raises:
            FactorsError: Missing, damaged, or of another base or other targets.
        """
        self.path = folder
        self._remedy = (
            f"delete {folder} and compute the factors again; experts trained on them stay bound to the old ones"
        )
        path = folder / MANIFEST
        data = read_or(path, lambda error: FactorsError(f"no factors at {folder}: {error}", self._remedy))
        try:
            self._manifest = Manifest.parse(data)
        except (ValueError, KeyError, TypeError) as error:
            raise FactorsError(f"{path} is damaged: {error!r}", self._remedy) from error
        have = self._manifest
        if (have.base, have.targets) != (base, targets):
            raise FactorsError(
                f"{folder} holds targets {have.targets!r} of base {have.base[:12]}, not {targets!r} of {base[:12]}",
                self._remedy,
            )
        if combine_digests(base, targets, have.matrices.values()) != have.digest:
            raise FactorsError(f"{path} does not match its matrices", self._remedy)

    @property
    def base(self) -> str:
        """Fingerprint of the base."""
        return self._manifest.base

    @property
    def targets(self) -> str:
        """Which matrices were chosen."""
        return self._manifest.targets

    @property
    def digest(self) -> str:
        """Identity of the factors."""
        return self._manifest.digest

    @property
    def names(self) -> list[str]:
        """All matrices, in the order of the base's modules."""
        return list(self._manifest.matrices)

    @cached_property
    def headers(self) -> dict[str, FileHeader]:
        """{matrix: what its file says of itself}; the factors are not read.

        Raises:
            FactorsError: A file is missing or truncated, or does not match the manifest.
        """
        headers = {name: read_header(self.path, name, self._remedy) for name in self.names}
        for name, header in headers.items():
            if header.digest != self._manifest.matrices[name]:
                raise FactorsError(f"{matrix_file(self.path, name)} does not match {MANIFEST}", self._remedy)
        return headers

    @cached_property
    def layout(self) -> ZLayout:
        """Order and ranks of a z on these factors, read from the files' headers alone.

        Raises:
            FactorsError: As ``headers``.
        """
        return ZLayout(tuple(self.headers), tuple(min(header.shape) for header in self.headers.values()))

    def matrix(self, name: str) -> MatrixFactors:
        """Map the factors of one matrix, read-only; no other file is read.

        Raises:
            FactorsError: The file is truncated or was changed.
        """
        return map_matrix(self.path, name, self._manifest.matrices[name], self._remedy)

    def linear(self, name: str, dtype: torch.dtype) -> LinearFactors:
        """Map what an SVF linear computes with, from a file that is made of the matrix's factors the first time.

        Raises:
            FactorsError: The factors are truncated or were changed, or the file cannot be written.
        """
        matrix = self.matrix(name)
        s = matrix.s.double()
        tensors = {
            "us": Conversion.by_rows(matrix.u, dtype, lambda rows: rows.double() * s),
            "vh": Conversion.by_rows(matrix.vh, dtype),
        }
        path = matrix_file(self.path / f"linear-{str(dtype).removeprefix('torch.')}", name)
        return LinearFactors(**converted(path, self._manifest.matrices[name], tensors, FactorsError))

    def load(self) -> Factors:
        """Map all factors, read-only.

        Raises:
            FactorsError: A file is truncated or was changed.
        """
        matrices = {name: self.matrix(name) for name in self.names}
        return Factors(matrices, self._manifest.base, self._manifest.targets, self.digest)

    def check(self) -> None:
        """Verify all files, which are not read again while they stay as they are.

        Raises:
            FactorsError: A file is truncated or was changed.
        """
        for name in self.names:
            self.matrix(name)
