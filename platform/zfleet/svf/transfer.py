"""Transfer of an expert to another base of the same architecture: its i-th value goes to the i-th singular value.

The paper does so between Llama-3-8B and Mistral-7B, whose matrices have the same shapes (arXiv 2501.06252), and
compares the order with a random permutation. Nothing makes sure that the i-th directions of two bases do the same: a z
becomes one of another base here only, where somebody asked for it, and what it is worth there has to be measured.
``carry.carry`` is for bases that hold the same matrices, where nothing changes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch

from zfleet.errors import WrongBase
from zfleet.svf.factors import Factors
from zfleet.svf.zvector import ZVector

_NAMED = 3
"""How many matrices an error names."""

Shapes = Mapping[str, tuple[int, int]]
"""{matrix: m and n}."""


def check_same_shapes(origin: Shapes, to: Shapes) -> None:
    """Refuse bases that differ in a target matrix, its name or its shape.

    Raises:
        WrongBase: Names the first matrices that differ.
    """
    names = dict.fromkeys((*origin, *to))
    differing = [name for name in names if origin.get(name) != to.get(name)]
    if differing:
        shown = [f"{name} is {_shape(origin.get(name))} and {_shape(to.get(name))}" for name in differing[:_NAMED]]
        more = f", and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise WrongBase(
            f"the two bases differ in {len(differing)} of {len(names)} target matrices: {', '.join(shown)}{more}",
            "name a base of the same architecture and sizes, and the same targets",
        )


def transfer(z: ZVector, origin: Factors, to: Factors) -> ZVector:
    """Make an expert of another base: the value of the i-th singular value stays that of the i-th, matrix by matrix.

    Args:
        origin: The factors it was trained on.
        to: Those of the other base; its matrices have the same names and shapes.

    Raises:
        WrongBase: The z belongs to other factors than ``origin``, or the bases differ in a target matrix.
        InvalidZ: The z has other matrices than ``origin``.
    """
    z.check_fits(base=origin.base, factors=origin.digest, layout=origin.layout)
    check_same_shapes(shapes_of(origin), shapes_of(to))
    return ZVector(z.values, to.base, to.digest, to.targets)


def shuffled(z: ZVector, seed: int) -> ZVector:
    """Permute the values of each matrix at random: the control that shows whether the order matters.

    The same seed permutes a matrix in the same way in every z, so that experts stay comparable.
    """
    values = {name: value[torch.tensor(_permutation(name, len(value), seed))] for name, value in z.values.items()}
    return ZVector(values, z.base, z.factors, z.targets)


def shapes_of(factors: Factors) -> dict[str, tuple[int, int]]:
    """Return {matrix: m and n}."""
    return {name: matrix.shape for name, matrix in factors.matrices.items()}


def _permutation(name: str, length: int, seed: int) -> list[int]:
    # Python's generator: that of torch may draw otherwise in another release.
    places = list(range(length))
    random.Random(f"{seed}/{name}").shuffle(places)
    return places


def _shape(shape: tuple[int, int] | None) -> str:
    return "not there" if shape is None else f"{shape[0]} x {shape[1]}"
