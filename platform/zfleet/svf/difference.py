"""How two z differ, layer by layer: by their values alone, without the factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zfleet.errors import WrongBase
from zfleet.svf.layout import layer_of
from zfleet.svf.zvector import ZVector


@dataclass(frozen=True)
class LayerDifference:
    """One transformer layer of two z.

    Attributes:
        layer: Counted from 0.
        first, second: The root mean square of z - 1 of each: how far each is from the base.
        difference: The root mean square of the first z less the second.
        cosine: Between the two z - 1; None if one of them is 0.
        only_one: The matrices of this layer that only one of them scales; they count as 1 in the other one.
    """

    layer: int
    first: float
    second: float
    difference: float
    cosine: float | None
    only_one: int


def layer_differences(first: ZVector, second: ZVector) -> list[LayerDifference]:
    """Compare two z of the same factors, layer by layer.

    Raises:
        WrongBase: They belong to different factors, so that their values are not about the same directions.
    """
    if (first.base, first.factors) != (second.base, second.factors):
        raise WrongBase(
            f"z {first.digest[:12]} and z {second.digest[:12]} belong to different bases or factors",
            "compare z of one base, on the same factors",
        )
    names = sorted(first.values.keys() | second.values.keys())
    found = []
    for layer in sorted({layer_of(name) for name in names}):
        own = [name for name in names if layer_of(name) == layer]
        a, b = (torch.cat([_change(z, other, name) for name in own]) for z, other in ((first, second), (second, first)))
        lengths = float(a.norm() * b.norm())
        found.append(
            LayerDifference(
                layer=layer,
                first=_rms(a),
                second=_rms(b),
                difference=_rms(a - b),
                cosine=float(a @ b) / lengths if lengths else None,
                only_one=sum((name in first.values) != (name in second.values) for name in own),
            )
        )
    return found


def _change(z: ZVector, other: ZVector, name: str) -> Tensor:
    """Return z - 1 of a matrix: [r] float64, 0 for a matrix that only the other z scales."""
    if name in z.values:
        return z.values[name].double() - 1.0
    return torch.zeros(other.values[name].shape, dtype=torch.float64)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
