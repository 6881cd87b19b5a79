"""Conversion between a point of the search and the alphas of a mixture.

A point of a search over K experts has K numbers, or K x L if every transformer layer has its own: then the
L alphas of the first expert come first, those of the second next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zfleet.config.names import Alpha
from zfleet.errors import SpecError

Points = NDArray[np.float64]
"""[n, dim] float64, a row each."""


def dimension(experts: int, layers: int | None) -> int:
    """Count the numbers of a point.

    Args:
        experts: How many are mixed.
        layers: How many the base has, if each has its own alphas; None for one alpha an expert.

    Raises:
        SpecError: No experts, or no layers.
    """
    if experts < 1 or (layers is not None and layers < 1):
        raise SpecError(f"a search over {experts} experts and {layers} layers", "give at least one of each")
    return experts * (layers or 1)


def known_points(experts: int, layers: int | None) -> Points:
    """List what is worth trying first: the base, then every single expert.

    Returns:
        [experts + 1, dim] float64: zeros, then each expert's own alphas at 1.
    """
    singles = np.repeat(np.eye(experts), layers or 1, axis=1)
    return np.concatenate([np.zeros((1, dimension(experts, layers))), singles])


def alphas_of(point: Sequence[float], experts: int, layers: int | None) -> list[Alpha]:
    """Return the alphas of one point, in the order of the experts: a number each, or a number per layer.

    Raises:
        SpecError: The point has another number of entries.
    """
    dim = dimension(experts, layers)
    if len(point) != dim:
        raise SpecError(f"a point of {len(point)} numbers for {experts} experts", f"give {dim} numbers")
    if layers is None:
        return [float(value) for value in point]
    return [tuple(float(v) for v in point[k * layers : (k + 1) * layers]) for k in range(experts)]
