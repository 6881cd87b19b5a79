"""The z-vector: what an expert is. It scales the singular values of one base's factors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from zfleet.errors import InvalidZ, WrongBase
from zfleet.files import read_or, write_atomic
from zfleet.svf.digest import digest_tensors
from zfleet.svf.layout import ZLayout

FORMAT = "zfleet-z/1"


@dataclass(frozen=True, eq=False)
class ZVector:
    """One z: W' = U diag(s * z) Vh for each target matrix; z = 1 is the base.

    A z means something only on the factors it was trained on (an SVD is unique only up to signs,
    rotations of equal singular values and rounding), so their digest is part of it.

    Attributes:
        values: {matrix: [r] float32}.
        base: Fingerprint of the base.
        factors: Digest of the base's factors.
        targets: Which matrices were chosen (``mlp``, ``attention``, ``all`` or a pattern).

    Raises:
        InvalidZ: No matrices, a value that is not finite, or a tensor that is not [r] float32.
    """

    values: Mapping[str, Tensor]
    base: str
    factors: str
    targets: str

    def __post_init__(self) -> None:
        if not self.values:
            raise InvalidZ("this z has no matrices", "train it again, or restore the file")
        self.check_values()

    def check_values(self) -> None:
        """Refuse values that are not finite or tensors that are not [r] float32.

        Raises:
            InvalidZ: Names the matrix.
        """
        for name, value in self.values.items():
            if value.dtype != torch.float32 or value.ndim != 1:
                raise InvalidZ(
                    f"z of {name} is {value.dtype} {list(value.shape)}", "each matrix needs a vector [r] of float32"
                )
            if not bool(torch.isfinite(value).all()):
                bad = int((~torch.isfinite(value)).sum())
                raise InvalidZ(
                    f"z of {name} holds {bad} values that are NaN or infinite",
                    "the training diverged: use an earlier checkpoint or a lower learning rate",
                )

    @cached_property
    def digest(self) -> str:
        """sha256 over the factors' digest and the canonical bytes of the values: the z's identity."""
        return _digest(self.values, self.factors)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return sum(value.numel() for value in self.values.values())

    def flat(self, layout: ZLayout) -> Tensor:
        """Concatenate all values in the layout's order: [R] float32."""
        self.check_layout(layout)
        return layout.flatten(dict(self.values))

    def check_layout(self, layout: ZLayout) -> None:
        """Refuse a z whose matrices or ranks differ from the layout's.

        Raises:
            InvalidZ: Names the first matrix that is missing, not wanted or of another rank.
        """
        expected = dict(zip(layout.names, layout.ranks, strict=True))
        for name in sorted(expected.keys() | self.values.keys()):
            have = self.values[name].numel() if name in self.values else None
            if have != expected.get(name):
                raise InvalidZ(
                    f"z {self.digest[:12]} has {_rank(have)} for {name}, the factors have {_rank(expected.get(name))}",
                    "use a z that was trained on the same base and the same targets",
                )

    def check_fits(self, *, base: str, factors: str, layout: ZLayout) -> None:
        """Refuse a z of another base, of other factors or of other shapes.

        Raises:
            WrongBase: The base's fingerprint or the factors' digest differs.
            InvalidZ: The matrices or ranks differ.
        """
        if self.base != base:
            raise WrongBase(
                f"z {self.digest[:12]} belongs to base {self.base[:12]}, not to base {base[:12]}",
                "load the base it was trained on, or train an expert for this one",
            )
        if self.factors != factors:
            raise WrongBase(
                f"z {self.digest[:12]} was trained on factors {self.factors[:12]}, not on {factors[:12]}",
                "use the factors it was trained on: computing them again does not give the same ones",
            )
        self.check_layout(layout)
        self.check_values()

    def to_bytes(self, extra: Mapping[str, str] | None = None) -> bytes:
        """Serialise as a safetensors file: one tensor per matrix, with everything else as metadata."""
        metadata = {
            "format": FORMAT,
            "base": self.base,
            "factors": self.factors,
            "targets": self.targets,
            "digest": self.digest,
            "extra": json.dumps(dict(extra or {}), sort_keys=True),
        }
        tensors = {name: value.contiguous() for name, value in self.values.items()}
        return safetensors.torch.save(tensors, metadata=metadata)

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "this file") -> ZVector:
        """Read and verify what ``to_bytes`` wrote.

        Raises:
            InvalidZ: Truncated, not a z, or its values do not match the digest stored with them.
        """
        remedy = "restore the file from the registry, or register the expert again"
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        except (safetensors.SafetensorError, ValueError) as error:
            raise InvalidZ(f"{source} is no complete safetensors file: {error}", remedy) from error
        metadata = header.get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise InvalidZ(f"{source} has format {metadata.get('format')!r}, not {FORMAT!r}", remedy)
        missing = [key for key in ("base", "factors", "targets", "digest") if key not in metadata]
        if missing:
            raise InvalidZ(f"{source} lacks the metadata {', '.join(missing)}", remedy)
        z = cls(tensors, metadata["base"], metadata["factors"], metadata["targets"])
        if z.digest != metadata["digest"]:
            raise InvalidZ(
                f"{source} was changed: its values have digest {z.digest[:12]}, stored is {metadata['digest'][:12]}",
                remedy,
            )
        return z

    def save(self, path: Path, extra: Mapping[str, str] | None = None) -> None:
        """Write the file atomically."""
        write_atomic(path, self.to_bytes(extra))

    @classmethod
    def load(cls, path: Path) -> ZVector:
        """Read and verify a file.

        Raises:
            InvalidZ: The file is missing, truncated or damaged.
        """
        data = read_or(path, lambda error: InvalidZ(f"{path} cannot be read: {error}", "check the path"))
        return cls.from_bytes(data, str(path))


def flat_digest(flat: Tensor, layout: ZLayout, factors: str) -> str:
    """Compute the digest of the z that numbers [R] in a layout are."""
    return _digest(layout.split(flat), factors)


def _digest(values: Mapping[str, Tensor], factors: str) -> str:
    return digest_tensors(values, FORMAT, factors)


def _rank(rank: int | None) -> str:
    return "nothing" if rank is None else f"{rank} values"
