"""The factor cache: computed once per base, a file per layer, resumable, verified on every load."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor, nn

from zfleet.errors import FactorsError
from zfleet.files import read_or, write_atomic
from zfleet.svf.factors import Factors, MatrixFactors, combine_digests, decompose, layer_digest, layer_tensors
from zfleet.svf.targets import PRESETS, by_layer, target_names

MANIFEST = "factors.json"


@dataclass(frozen=True)
class FactorCache:
    """Factors under ``root``, addressed by fingerprint, targets and dtype."""

    root: Path

    def folder(self, base: str, targets: str, dtype: torch.dtype) -> Path:
        """Where the factors of a base lie."""
        # Patterns that differ in punctuation alone must not share a folder.
        slug = targets if targets in PRESETS else f"pattern-{hashlib.sha256(targets.encode()).hexdigest()[:16]}"
        return self.root / f"{base[:32]}-{slug}-{str(dtype).removeprefix('torch.')}"

    def get(
        self,
        model: nn.Module,
        base: str,
        targets: str = "all",
        dtype: torch.dtype = torch.float32,
        on_layer: Callable[[int, int], None] = lambda done, total: None,
    ) -> Factors:
        """Load the factors of a base, computing what is missing.

        A killed computation goes on where it stopped: each layer's file is written atomically, and the
        manifest last. One process computes, others wait for it.

        Args:
            model: The base, its target linears still plain.
            base: Its fingerprint.
            targets: Which matrices to decompose.
            dtype: What the factors are stored in; the SVD itself runs in float64.
            on_layer: Told how many layers are done, of how many.

        Raises:
            FactorsError: A file is damaged, or the folder belongs to other targets.
        """
        folder = self.folder(base, targets, dtype)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not (folder / MANIFEST).exists():
                _compute(folder, model, base, targets, dtype, on_layer)
        return load_factors(folder, base, targets)


def load_factors(folder: Path, base: str, targets: str) -> Factors:
    """Read and verify a folder of factors.

    Raises:
        FactorsError: Missing, truncated, changed, or of another base or other targets.
    """
    remedy = f"delete {folder} and compute the factors again; experts trained on them stay bound to the old ones"
    path = folder / MANIFEST
    data = read_or(path, lambda error: FactorsError(f"no factors at {folder}: {error}", remedy))
    try:
        manifest = _Manifest.parse(data)
    except (ValueError, KeyError, TypeError) as error:
        raise FactorsError(f"{path} is damaged: {error!r}", remedy) from error
    if (manifest.base, manifest.targets) != (base, targets):
        raise FactorsError(
            f"{folder} holds targets {manifest.targets!r} of base {manifest.base[:12]}, not {targets!r} of {base[:12]}",
            remedy,
        )
    matrices: dict[str, MatrixFactors] = {}
    for file, digest in manifest.layers.items():
        layer = _read_layer(folder / file, remedy)
        if layer_digest(layer) != digest:
            raise FactorsError(f"{folder / file} was changed: its digest is not the stored {digest[:12]}", remedy)
        matrices |= layer
    if sorted(manifest.order) != sorted(matrices):
        raise FactorsError(f"{path} does not match its layers", remedy)
    factors = Factors({name: matrices[name] for name in manifest.order}, base, targets)
    if factors.digest != manifest.digest:
        raise FactorsError(f"{path} does not match its layers", remedy)
    return factors


@dataclass(frozen=True)
class _Manifest:
    """What a folder of factors says of itself.

    Attributes:
        base: Fingerprint of the base.
        targets: Which matrices were chosen.
        order: All matrices, in the order of the base's modules.
        layers: {file: digest}.
        digest: Of all factors.
    """

    base: str
    targets: str
    order: list[str]
    layers: dict[str, str]
    digest: str

    @classmethod
    def parse(cls, data: bytes) -> _Manifest:
        """Raises ValueError, KeyError or TypeError where ``data`` is no manifest."""
        fields = json.loads(data)
        layers = {str(file): str(digest) for file, digest in dict(fields["layers"]).items()}
        if odd := [file for file in layers if not re.fullmatch(r"layer-\d+\.safetensors", file)]:
            raise ValueError(f"{odd[0]!r} is no file of a layer")
        order = [str(name) for name in fields["order"]]
        return cls(str(fields["base"]), str(fields["targets"]), order, layers, str(fields["digest"]))


def _compute(
    folder: Path,
    model: nn.Module,
    base: str,
    targets: str,
    dtype: torch.dtype,
    on_layer: Callable[[int, int], None],
) -> None:
    names = target_names(model, targets)
    groups = by_layer(names)
    digests: dict[str, str] = {}
    for done, (index, members) in enumerate(sorted(groups.items()), start=1):
        file = f"layer-{index:04d}.safetensors"
        layer = _resume_layer(folder / file, members)
        if layer is None:
            layer = {name: decompose(_weight(model, name), dtype) for name in members}
            tensors = layer_tensors(layer)
            write_atomic(folder / file, safetensors.torch.save(tensors, {"digest": layer_digest(layer)}))
        digests[file] = layer_digest(layer)
        on_layer(done, len(groups))
    manifest = _Manifest(base, targets, names, digests, combine_digests(base, targets, list(digests.values())))
    write_atomic(folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())


def _resume_layer(path: Path, members: list[str]) -> dict[str, MatrixFactors] | None:
    """A layer left by a computation that was killed; None where there is none or it is not whole."""
    if not path.exists():
        return None
    data = path.read_bytes()
    try:
        layer = _parse_layer(safetensors.torch.load(data))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError, KeyError):
        return None
    whole = sorted(layer) == sorted(members) and header["__metadata__"]["digest"] == layer_digest(layer)
    return layer if whole else None


def _read_layer(path: Path, remedy: str) -> dict[str, MatrixFactors]:
    data = read_or(path, lambda error: FactorsError(f"{path} cannot be read: {error}", remedy))
    try:
        return _parse_layer(safetensors.torch.load(data))
    except (safetensors.SafetensorError, KeyError) as error:
        raise FactorsError(f"{path} is truncated or damaged: {error}", remedy) from error


def _parse_layer(tensors: Mapping[str, Tensor]) -> dict[str, MatrixFactors]:
    names = dict.fromkeys(key.rsplit("|", 1)[0] for key in tensors)
    return {name: MatrixFactors(tensors[f"{name}|u"], tensors[f"{name}|s"], tensors[f"{name}|vh"]) for name in names}


def _weight(model: nn.Module, name: str) -> Tensor:
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear.weight.detach()
