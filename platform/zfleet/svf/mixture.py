"""The algebra of z-vectors: exact, in float64, in the order of expert digests, rounded once to float32.

A mixture is z = 1 + sum_k alpha_k (z_k - 1). This is the paper's sum_k alpha_k z_k (arXiv 2501.06252,
section 3.2) whenever the alphas sum to 1, and the base when every alpha is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zfleet.errors import InvalidZ, SpecError, WrongBase
from zfleet.svf.layout import layer_of
from zfleet.svf.zvector import ZVector

Alpha = float | Sequence[float]
"""A mixing coefficient: one number, or one per transformer layer."""


def mix(experts: Sequence[ZVector], alphas: Sequence[Alpha]) -> ZVector:
    """z = 1 + sum_k alpha_k (z_k - 1), the same whatever the order of the experts.

    Args:
        experts: At least one; all of the same base, factors and targets.
        alphas: One for each expert.

    Raises:
        SpecError: Counts differ, or an alpha has the wrong number of layers.
        WrongBase: The experts do not share their factors.
        InvalidZ: An alpha, or the result, is not finite.
    """
    if not experts or len(experts) != len(alphas):
        raise SpecError(f"{len(experts)} experts have {len(alphas)} alphas", "give one alpha for each expert")
    for expert in experts[1:]:
        _check_same(experts[0], expert)
    ordered = sorted(zip(experts, alphas, strict=True), key=lambda pair: (pair[0].digest, _as_key(pair[1])))
    values = {}
    for name, first in experts[0].values.items():
        total = torch.ones(first.shape, dtype=torch.float64)
        for expert, alpha in ordered:
            total += _alpha_of(alpha, name, experts[0]) * (expert.values[name].double() - 1.0)
        values[name] = total.float()
    return _like(experts[0], values)


def identity(like: ZVector) -> ZVector:
    """z = 1 on the same factors: the base."""
    return _like(like, {name: torch.ones_like(value) for name, value in like.values.items()})


def add(first: ZVector, second: ZVector) -> ZVector:
    """What both change, together: 1 + (a - 1) + (b - 1)."""
    return mix([first, second], [1.0, 1.0])


def scale(z: ZVector, alpha: Alpha) -> ZVector:
    """The same change, alpha times as strong: 1 + alpha (z - 1)."""
    return mix([z], [alpha])


def interpolate(first: ZVector, second: ZVector, t: float) -> ZVector:
    """(1 - t) a + t b."""
    return mix([first, second], [1.0 - t, t])


def diff(first: ZVector, second: ZVector) -> ZVector:
    """What the first changes beyond the second: 1 + (a - b). ``add(diff(a, b), b)`` is a, up to rounding."""
    return mix([first, second], [1.0, -1.0])


def mass_preserving(z: ZVector, singular_values: Mapping[str, Tensor]) -> ZVector:
    """Rescale each matrix by sum(s) / sum(s z), as the reference implementation does.

    Args:
        z: The z to rescale.
        singular_values: {matrix: s [r]} of the factors that z belongs to.

    Raises:
        InvalidZ: sum(s z) of a matrix is not positive, so that no rescale keeps its mass.
    """
    values = {}
    for name, value in z.values.items():
        s = singular_values[name].double()
        mass = (s * value.double()).sum()
        if not mass > 0:
            raise InvalidZ(f"sum(s z) of {name} is {float(mass):g}: its mass cannot be preserved", "use smaller alphas")
        values[name] = (value.double() * (s.sum() / mass)).float()
    return _like(z, values)


def _like(z: ZVector, values: dict[str, Tensor]) -> ZVector:
    return ZVector(values, z.base, z.factors, z.targets)


def _check_same(first: ZVector, other: ZVector) -> None:
    if (first.base, first.factors) != (other.base, other.factors):
        raise WrongBase(
            f"z {other.digest[:12]} is of base {other.base[:12]}, factors {other.factors[:12]}; "
            f"z {first.digest[:12]} is of base {first.base[:12]}, factors {first.factors[:12]}",
            "mix only experts that share one base and its factors",
        )
    if {n: v.shape for n, v in first.values.items()} != {n: v.shape for n, v in other.values.items()}:
        raise InvalidZ(
            f"z {other.digest[:12]} has other target matrices than z {first.digest[:12]}",
            "mix only experts with the same targets",
        )


def _alpha_of(alpha: Alpha, name: str, z: ZVector) -> float:
    if isinstance(alpha, int | float):
        return _finite(float(alpha))
    layers = 1 + max(layer_of(matrix) for matrix in z.values)
    if len(alpha) != layers:
        raise SpecError(f"alpha has {len(alpha)} numbers, the base has {layers} layers", "give one for each layer")
    return _finite(float(alpha[layer_of(name)]))


def _finite(alpha: float) -> float:
    if alpha - alpha != 0.0:
        raise InvalidZ(f"alpha is {alpha}", "alphas must be finite numbers")
    return alpha


def _as_key(alpha: Alpha) -> tuple[float, ...]:
    return (float(alpha),) if isinstance(alpha, int | float) else tuple(float(a) for a in alpha)
