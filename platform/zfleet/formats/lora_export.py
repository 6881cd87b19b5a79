"""An expert as a LoRA adapter of PEFT: W' = W + B A, with B A = W' - W or the nearest matrix of a smaller rank.

W' - W = U diag(d) Vh with d = s (z - 1), whose singular values are |d|. With K the directions of the k largest |d|,

    B = U_K diag(sign(d_K) sqrt|d_K|),    A = diag(sqrt|d_K|) Vh_K

is the nearest matrix of rank k (Eckart and Young), and it lacks the Frobenius norm sqrt(sum of the dropped d^2). All
directions with a d are the change itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mode

import torch
from torch import Tensor

from zfleet.errors import FormatError
from zfleet.svf.directions import changes
from zfleet.svf.folder import FactorFolder
from zfleet.svf.streamed import Conversion, write_tensors
from zfleet.svf.zvector import ZVector

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before the module paths in an adapter's files."""

Keep = Callable[[Tensor, Tensor], Tensor]
"""Chooses directions of a matrix, given z [1, r] and s [r]: indices [k], as ``zfleet.svf.directions`` does."""


@dataclass(frozen=True)
class Truncation:
    """What an adapter has of one matrix's change.

    Attributes:
        matrix: Module path.
        rank: Of the adapter; 0 if the matrix has none.
        change: ||W' - W||, Frobenius.
        missing: ||W' - W - B A||: what the rank leaves out, without the rounding of B and A.
        weight: ||W||.
    """

    matrix: str
    rank: int
    change: float
    missing: float
    weight: float

    @property
    def relative(self) -> float:
        """The missing part over the change; 0 if nothing changes."""
        return self.missing / self.change if self.change else 0.0


def export_lora(
    z: ZVector,
    factors: FactorFolder,
    paths: Mapping[str, str],
    folder: Path,
    *,
    keep: Keep,
    dtype: torch.dtype = torch.float32,
    base_model: str = "",
    metadata: Mapping[str, str] | None = None,
) -> list[Truncation]:
    """Write an adapter that ``peft`` and vLLM read; the factors of one matrix at a time are in use.

    Args:
        z: The expert.
        factors: Those that it was trained on.
        paths: {matrix: module path in the whole model}, as ``module_paths`` returns it.
        folder: Written here; it exists and is empty.
        keep: Chooses the directions of each matrix. Those without a change are left out of them.
        dtype: That A and B are stored in.
        base_model: The base's name or folder, for the config.
        metadata: Of the file of weights, besides the format.

    Returns:
        What each matrix has of its change, in the order of the matrices.

    Raises:
        WrongBase, InvalidZ: The z belongs to another base or other factors.
        FactorsError: The factors are damaged.
        FormatError: No matrix keeps a direction.
        OSError: The disk is full.
    """
    from peft import LoraConfig

    z.check_fits(base=factors.base, factors=factors.digest, layout=factors.layout)
    rows: list[Truncation] = []
    tensors: dict[str, Conversion] = {}
    ranks: dict[str, int] = {}
    for name in factors.names:
        s = factors.matrix(name).s
        d = changes(z.values[name], s)
        kept = keep(z.values[name].unsqueeze(0), s)
        kept = kept[d[kept] != 0]
        rows.append(_truncation(name, d, s, kept))
        if len(kept):
            ranks[paths[name]] = len(kept)
            tensors |= _tensors(f"{PREFIX}{paths[name]}", factors, name, d[kept], kept, dtype)
    if not ranks:
        raise FormatError(
            f"z {z.digest[:12]} keeps no direction of any matrix: the adapter would be the base",
            "export it with more directions, or use the base as it is",
        )
    usual = mode(ranks.values())
    others = {path: rank for path, rank in ranks.items() if rank != usual}
    config = LoraConfig(
        r=usual,
        # Scales are alpha / rank: 1 for every matrix.
        lora_alpha=usual,
        rank_pattern=dict(others),
        alpha_pattern=dict(others),
        target_modules=list(ranks),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model or None,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    with (folder / WEIGHTS).open("xb") as file:
        write_tensors(file, tensors, {"format": "pt", **(metadata or {})})
        file.flush()
        os.fsync(file.fileno())
    return rows


def _truncation(name: str, d: Tensor, s: Tensor, kept: Tensor) -> Truncation:
    dropped = d.clone()
    dropped[kept] = 0.0
    return Truncation(name, len(kept), float(d.norm()), float(dropped.norm()), float(s.double().norm()))


def _tensors(
    key: str, factors: FactorFolder, name: str, d: Tensor, kept: Tensor, dtype: torch.dtype
) -> dict[str, Conversion]:
    """Describe A and B of one matrix, with d [k] of the kept directions; they are computed when they are written."""
    root = d.abs().sqrt()

    def a() -> list[Tensor]:
        return [(root.unsqueeze(1) * factors.matrix(name).vh[kept].double()).to(dtype)]

    def b() -> list[Tensor]:
        return [(factors.matrix(name).u[:, kept].double() * (d.sign() * root)).to(dtype)]

    m, n = factors.headers[name].shape
    return {
        f"{key}.lora_A.weight": Conversion(dtype, (len(kept), n), a),
        f"{key}.lora_B.weight": Conversion(dtype, (m, len(kept)), b),
    }
