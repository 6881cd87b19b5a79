"""A folder of factors as it lies on disk: a file per layer and a manifest that says what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from zfleet.errors import FactorsError
from zfleet.files import read_or
from zfleet.svf.factors import Factors, MatrixFactors, combine_digests, layer_digest
from zfleet.svf.layout import ZLayout, layer_of

MANIFEST = "factors.json"


@dataclass(frozen=True)
class Manifest:
    """What a folder of factors says of itself.

    Attributes:
        base: Fingerprint of the base.
        targets: Which matrices were chosen.
        order: All matrices, in the order of the base's modules.
        layers: {file: digest}, in the order of the layers.
        digest: Of all factors.
    """

    base: str
    targets: str
    order: list[str]
    layers: dict[str, str]
    digest: str

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Raises ValueError, KeyError or TypeError where ``data`` is no manifest."""
        fields = json.loads(data)
        layers = {str(file): str(digest) for file, digest in dict(fields["layers"]).items()}
        if odd := [file for file in layers if not re.fullmatch(r"layer-\d+\.safetensors", file)]:
            raise ValueError(f"{odd[0]!r} is no file of a layer")
        order = [str(name) for name in fields["order"]]
        return cls(str(fields["base"]), str(fields["targets"]), order, layers, str(fields["digest"]))


class FactorFolder:
    """Reads factors layer by layer, each verified against the manifest.

    Attributes:
        path: Where they lie.
    """

    def __init__(self, folder: Path, base: str, targets: str) -> None:
        """Read the manifest.

        Args:
            folder: Where the factors lie.
            base: Fingerprint of the base they must belong to.
            targets: The targets they must have.

        Raises:
            FactorsError: Missing, damaged, or of another base or other targets.
        """
        self.path = folder
        self._last: tuple[str, dict[str, MatrixFactors]] | None = None
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
        files = {_file_of(name) for name in have.order}
        if combine_digests(base, targets, list(have.layers.values())) != have.digest or files != set(have.layers):
            raise FactorsError(f"{path} does not match its layers", self._remedy)

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
        return self._manifest.order

    @cached_property
    def layout(self) -> ZLayout:
        """Order and ranks of a z on these factors, read from the files' headers alone.

        Raises:
            FactorsError: A file is truncated or does not match the manifest.
        """
        ranks: dict[str, int] = {}
        for file in self._manifest.layers:
            try:
                with safetensors.safe_open(self.path / file, "pt") as header:
                    for key in header.keys():  # noqa: SIM118  (no mapping)
                        if key.endswith("|s"):
                            ranks[key.removesuffix("|s")] = header.get_slice(key).get_shape()[0]
            except (safetensors.SafetensorError, OSError) as error:
                raise FactorsError(f"{self.path / file} is truncated or damaged: {error}", self._remedy) from error
        if sorted(ranks) != sorted(self.names):
            raise FactorsError(f"{self.path / MANIFEST} does not match its layers", self._remedy)
        return ZLayout(tuple(self.names), tuple(ranks[name] for name in self.names))

    def matrix(self, name: str) -> MatrixFactors:
        """The factors of one matrix. The last layer read is kept, as its matrices are wanted one after the other.

        Raises:
            FactorsError: The file is truncated or was changed.
        """
        file = _file_of(name)
        if self._last is None or self._last[0] != file:
            self._last = file, self._read(file)
        return self._last[1][name]

    def load(self) -> Factors:
        """All factors.

        Raises:
            FactorsError: A file is truncated or was changed.
        """
        matrices: dict[str, MatrixFactors] = {}
        for file in self._manifest.layers:
            matrices |= self._read(file)
        if sorted(self.names) != sorted(matrices):
            raise FactorsError(f"{self.path / MANIFEST} does not match its layers", self._remedy)
        return Factors({name: matrices[name] for name in self.names}, self._manifest.base, self._manifest.targets)

    def _read(self, file: str) -> dict[str, MatrixFactors]:
        path = self.path / file
        data = read_or(path, lambda error: FactorsError(f"{path} cannot be read: {error}", self._remedy))
        try:
            layer = parse_layer(safetensors.torch.load(data))
        except (safetensors.SafetensorError, KeyError) as error:
            raise FactorsError(f"{path} is truncated or damaged: {error}", self._remedy) from error
        expected = self._manifest.layers[file]
        if layer_digest(layer) != expected:
            raise FactorsError(f"{path} was changed: its digest is not the stored {expected[:12]}", self._remedy)
        return layer


def _file_of(name: str) -> str:
    """The file of a matrix's layer."""
    return f"layer-{layer_of(name):04d}.safetensors"


def parse_layer(tensors: Mapping[str, Tensor]) -> dict[str, MatrixFactors]:
    """The matrices in one layer's file.

    Raises:
        KeyError: A part of a matrix is missing.
    """
    names = dict.fromkeys(key.rsplit("|", 1)[0] for key in tensors)
    return {name: MatrixFactors(tensors[f"{name}|u"], tensors[f"{name}|s"], tensors[f"{name}|vh"]) for name in names}
