"""Tiny bases with their factors on disk, for tests of what goes out of zfleet and comes in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from zfleet.models.base import load_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.matrices import target_matrices
from zfleet.models.svf_model import SvfModel
from zfleet.svf.cache import FactorCache
from zfleet.svf.folder import FactorFolder
from zfleet.svf.zvector import ZVector
from zfleet.testing.tiny_bases import save_tiny


def delta_of(model: PeftModel, path: str) -> Tensor:
    """Compute what an adapter adds to one matrix, as PEFT does: [m, n] float64."""
    layer: Any = model.get_base_model().get_submodule(path)
    delta: Tensor = layer.get_delta_weight("default").detach()
    return delta.double()


@dataclass(frozen=True, eq=False)
class FactoredBase:
    """A base folder and its factors.

    Attributes:
        folder: Of the base.
        factors: The folder of its factors.
    """

    folder: Path
    factors: FactorFolder

    @classmethod
    def of(cls, folder: Path, cache: Path, targets: str = "all") -> FactoredBase:
        """Compute the factors of a base into a cache."""
        return cls(folder, FactorCache(cache).compute(target_matrices(folder, fingerprint(folder), targets)))

    @classmethod
    def tiny(cls, family: str, root: Path, targets: str = "all") -> FactoredBase:
        """Save a tiny base of a family below ``root``, and decompose it."""
        return cls.of(save_tiny(family, root / family), root / "factors", targets)

    @torch.no_grad()
    def logits(self, z: ZVector, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute logits [B, T, vocabulary] of token ids [B, T] in the factored form that engines run."""
        model = SvfModel(load_base(self.folder, dtype=dtype), self.factors.load())
        with model.bound(z.flat(model.layout).unsqueeze(0)):
            out: Tensor = model.base.model(input_ids=ids).logits
        return out
