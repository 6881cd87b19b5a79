"""The factor cache: computed once per base, a file per layer, resumable, verified on every load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor, nn

from zfleet.files import write_atomic
from zfleet.svf.factors import Factors, MatrixFactors, combine_digests, decompose, layer_digest, layer_tensors
from zfleet.svf.folder import MANIFEST, FactorFolder, Manifest, parse_layer
from zfleet.svf.targets import PRESETS, by_layer, target_names


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
        return FactorFolder(folder, base, targets).load()


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
    manifest = Manifest(base, targets, names, digests, combine_digests(base, targets, list(digests.values())))
    write_atomic(folder / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())


def _resume_layer(path: Path, members: list[str]) -> dict[str, MatrixFactors] | None:
    """A layer left by a computation that was killed; None where there is none or it is not whole."""
    if not path.exists():
        return None
    data = path.read_bytes()
    try:
        layer = parse_layer(safetensors.torch.load(data))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError, KeyError):
        return None
    whole = sorted(layer) == sorted(members) and header["__metadata__"]["digest"] == layer_digest(layer)
    return layer if whole else None


def _weight(model: nn.Module, name: str) -> Tensor:
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    return linear.weight.detach()
