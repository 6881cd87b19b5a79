"""How alike experts are by their z alone, without the factors that ``interference`` weighs their changes with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from zfleet.svf.zvector import ZVector


def cosines(experts: Sequence[ZVector]) -> NDArray[np.float64]:
    """Compute the cosine of z - 1 for each pair of experts; 0 where one of them changes nothing.

    Args:
        experts: Of the same base, factors and targets.

    Returns:
        [experts, experts] float64, symmetric.
    """
    names = sorted(experts[0].values)
    changes = torch.stack([torch.cat([z.values[name] for name in names]).double() - 1.0 for z in experts])
    lengths = changes.norm(dim=1, keepdim=True)
    units = torch.where(lengths > 0, changes / lengths.clamp_min(1e-300), 0.0)
    return (units @ units.T).numpy()
