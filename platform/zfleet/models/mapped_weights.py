"""A base's weights as tensors that processes share, in the precision that it computes in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from zfleet.errors import BaseModelError
from zfleet.models.checkpoint import checkpoint_files
from zfleet.paths import cache_root
from zfleet.remembered import file_sha256
from zfleet.svf.mapped import map_tensors
from zfleet.svf.prepared import converted
from zfleet.svf.stored import WEIGHT_DTYPES
from zfleet.svf.streamed import Conversion


def mapped_weights(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Map the weights of a base, read-only: {name in its files: tensor}.

    Weights that are stored in another precision come from a file of the cache that has them in this one, and that is
    made the first time.

    Raises:
        BaseModelError: A file is missing or damaged, or there is no room in the cache.
    """
    weights: dict[str, Tensor] = {}
    for file in checkpoint_files(folder):
        tensors = map_tensors(file)
        others = {
            name: Conversion.by_rows(tensor, dtype)
            for name, tensor in tensors.items()
            if tensor.dtype in WEIGHT_DTYPES and tensor.dtype != dtype and tensor.ndim
        }
        weights |= tensors
        if others:
            source = file_sha256(file)
            name = f"{source[:32]}-{str(dtype).removeprefix('torch.')}.safetensors"
            weights |= converted(cache_root() / "weights" / name, source, others, BaseModelError)
    return weights
