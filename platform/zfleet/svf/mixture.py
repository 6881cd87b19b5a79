"""The algebra of z-vectors: exact, in float64, in the order of expert digests, rounded once to float32.

A mixture is z = 1 + sum_k alpha_k (z_k - 1). This is the paper's sum_k alpha_k z_k (arXiv 2501.06252,
section 3.2) whenever the alphas sum to 1, and the base when every alpha is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from zfleet.config.names import Alpha
from zfleet.errors import InvalidZ, SpecError, WrongBase
from zfleet.svf.layout import kind_of, layer_of
from zfleet.svf.zvector import ZVector


def mix(experts: Sequence[ZVector], alphas: Sequence[Alpha]) -> ZVector:
    """Return z = 1 + sum_k alpha_k (z_k - 1), the same whatever the order of the experts.

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
    first = experts[0]
    for expert in experts[1:]:
        _check_same(first, expert)
    for alpha in alphas:
        if isinstance(alpha, Mapping):
            _check_names(alpha, first)
    ordered = sorted(zip(experts, alphas, strict=True), key=lambda pair: (pair[0].digest, _as_key(pair[1])))
    values = {}
    for name, value in first.values.items():
        total = torch.ones(value.shape, dtype=torch.float64)
        for expert, alpha in ordered:
            total += alpha_of(alpha, name, first) * (expert.values[name].double() - 1.0)
        values[name] = total.float()
    return ZVector(values, first.base, first.factors, first.targets)


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


def alpha_of(alpha: Alpha, name: str, z: ZVector) -> float:
    """Return the number that an alpha has for a matrix of z.

    Raises:
        SpecError: It has none for this matrix, or another number of layers.
        InvalidZ: It is not finite.
    """
    if isinstance(alpha, int | float):
        return _finite(float(alpha))
    if isinstance(alpha, Mapping):
        key = name if name in alpha else kind_of(name)
        if key not in alpha:
            raise SpecError(f"alpha has no number for {name}", "give one for each matrix, or each kind of matrix")
        return _finite(float(alpha[key]))
    layers = 1 + max(layer_of(matrix) for matrix in z.values)
    if len(alpha) != layers:
        raise SpecError(f"alpha has {len(alpha)} numbers, the base has {layers} layers", "give one for each layer")
    return _finite(float(alpha[layer_of(name)]))


def _check_names(alpha: Mapping[str, float], z: ZVector) -> None:
    known = {*z.values, *map(kind_of, z.values)}
    if unknown := sorted(alpha.keys() - known):
        raise SpecError(
            f"alpha names {unknown[0]}, but the experts have no such matrix",
            f"name matrices, or kinds of them: {', '.join(sorted({*map(kind_of, z.values)}))}",
        )


def _finite(alpha: float) -> float:
    if alpha - alpha != 0.0:
        raise InvalidZ(f"alpha is {alpha}", "alphas must be finite numbers")
    return alpha


def _as_key(alpha: Alpha) -> tuple[tuple[str, float], ...]:
    if isinstance(alpha, Mapping):
        return tuple(sorted((name, float(value)) for name, value in alpha.items()))
    numbers = (alpha,) if isinstance(alpha, int | float) else alpha
    return tuple(("", float(value)) for value in numbers)
