"""The space of a search: whose alphas vary, how finely, and within which limits.

A point has K x G numbers for K experts whose alphas are split into G groups: the G alphas of the first expert come
first, those of the second next. Groups are the whole model (G = 1), its layers, kinds of matrices, or matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zfleet.config.names import Alpha
from zfleet.errors import SpecError

Points = NDArray[np.float64]
"""[n, dim] float64, a row each."""

Split = Literal["global", "layer", "kind", "matrix"]
"""What has an alpha of its own: the expert, or each of its layers, kinds of matrices (``q_proj``), or matrices."""


@dataclass(frozen=True)
class Space:
    """Which points a search may try.

    Attributes:
        experts: Names, in the order of a point's numbers.
        split: What has an alpha of its own.
        groups: The names of an expert's alphas; for ``layer`` the numbers of the layers, for ``global`` one.
        low, high: Every alpha lies between them; the base, all alphas 0, must lie there too.
        sum_to_one: The experts' alphas of a group sum to 1. The base is then outside the space.
        max_experts: The most experts whose alphas differ from 0; None if all may.

    Raises:
        SpecError: A limit that no point can keep, or that excludes the base without ``sum_to_one``.
    """

    experts: tuple[str, ...]
    split: Split = "global"
    groups: tuple[str, ...] = ("",)
    low: float = 0.0
    high: float = 1.0
    sum_to_one: bool = False
    max_experts: int | None = None

    def __post_init__(self) -> None:
        count, most = len(self.experts), self.max_experts
        if not count or not self.groups:
            raise SpecError(
                f"a space of {count} experts and {len(self.groups)} alphas each", "give one of each or more"
            )
        if not self.low <= 0 < self.high:
            raise SpecError(
                f"space.low is {self.low:g} and space.high {self.high:g}: the base, all alphas 0, lies outside",
                "give a low of 0 or less, and a high above 0",
            )
        if most is not None and not 1 <= most <= count:
            raise SpecError(
                f"space.max_experts is {most} for {count} experts", f"give a number from 1 to {count}, or leave it out"
            )
        if self.sum_to_one and self.high < 1:
            raise SpecError(
                f"space.sum_to_one is true and space.high {self.high:g}: an expert alone, its alpha 1, lies outside",
                "give a high of 1 or more",
            )

    @property
    def dim(self) -> int:
        """How many numbers a point has."""
        return len(self.experts) * len(self.groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Name each number of a point: the expert, and what of it, such as ``math:q_proj``."""
        return tuple(f"{expert}:{group}" if group else expert for expert in self.experts for group in self.groups)

    def base(self) -> Points:
        """Return the base's point: [1, dim] zeros."""
        return np.zeros((1, self.dim))

    def singles(self) -> Points:
        """Return each expert alone, its alphas 1, or ``high`` where that is less: [experts, dim]."""
        return np.repeat(np.eye(len(self.experts)), len(self.groups), axis=1) * min(1.0, self.high)

    def uniform(self) -> Points:
        """Return the mixture of all experts in equal parts that sum to 1, within the limits: [1, dim]."""
        return self.within(np.full((1, self.dim), 1 / len(self.experts)))

    def within(self, points: Points) -> Points:
        """Return the nearest points that keep the limits.

        Alphas are clipped. Of more experts than ``max_experts`` those with the largest alphas stay (by the sum of
        absolute values). Alphas that must sum to 1 are projected on that plane within the limits (Euclidean).

        Args:
            points: [n, dim].

        Returns:
            [n, dim] float64.
        """
        alphas = np.clip(points, self.low, self.high).reshape(len(points), len(self.experts), len(self.groups))
        kept = np.ones(alphas.shape[:2], dtype=bool)
        if self.max_experts is not None:
            # Stable: of equal ones the earlier expert stays.
            order = np.argsort(-np.abs(alphas).sum(axis=2), axis=1, kind="stable")
            np.put_along_axis(kept, order[:, self.max_experts :], False, axis=1)
        if self.sum_to_one:
            alphas = _summing_to_one(alphas, kept, self.low, self.high)
        return np.where(kept[:, :, None], alphas, 0.0).reshape(points.shape)

    def alphas(self, point: Sequence[float]) -> list[Alpha]:
        """Return the alphas of one point, in the order of the experts, as ``zfleet.svf.mixture.mix`` takes them.

        Raises:
            SpecError: The point has another number of entries.
        """
        if len(point) != self.dim:
            raise SpecError(f"a point of {len(point)} numbers, the space has {self.dim}", "give one for each alpha")
        size = len(self.groups)
        rows = [[float(value) for value in point[at : at + size]] for at in range(0, self.dim, size)]
        if self.split == "global":
            return [row[0] for row in rows]
        if self.split == "layer":
            return [tuple(row) for row in rows]
        return [dict(zip(self.groups, row, strict=True)) for row in rows]

    def of(self, experts: Sequence[int]) -> Space:
        """Return the space of a few of the experts, with the same limits.

        Args:
            experts: Their places, ascending.
        """
        most = None if self.max_experts is None else min(self.max_experts, len(experts))
        return replace(self, experts=tuple(self.experts[place] for place in experts), max_experts=most)

    def widen(self, points: Points, experts: Sequence[int]) -> Points:
        """Return points of ``of(experts)`` as points of this space: the alphas of all others are 0.

        Args:
            points: [n, len(experts) * groups].

        Returns:
            [n, dim].
        """
        wide = np.zeros((len(points), len(self.experts), len(self.groups)))
        wide[:, list(experts)] = points.reshape(len(points), len(experts), len(self.groups))
        return wide.reshape(len(points), self.dim)

    def narrow(self, points: Points, experts: Sequence[int]) -> Points:
        """Return the numbers of a few experts: the inverse of ``widen``.

        Args:
            points: [n, dim].

        Returns:
            [n, len(experts) * groups].
        """
        wide = points.reshape(len(points), len(self.experts), len(self.groups))
        return wide[:, list(experts)].reshape(len(points), len(experts) * len(self.groups))


def _summing_to_one(alphas: Points, kept: NDArray[np.bool_], low: float, high: float) -> Points:
    """Project on alphas that sum to 1 over the experts that are kept: clip(alpha + t, low, high) for some t.

    This is the Euclidean projection on a plane within a box, by its Karush-Kuhn-Tucker conditions; the sum grows with
    t, so that bisection finds it.

    Args:
        alphas: [n, experts, groups], within the limits.
        kept: [n, experts].
    """
    mask = kept[:, :, None]
    below = np.full((len(alphas), 1, alphas.shape[2]), low - high - 1.0)
    above = -below + 1.0
    for _ in range(100):
        middle = (below + above) / 2
        large = np.where(mask, np.clip(alphas + middle, low, high), 0.0).sum(axis=1, keepdims=True) > 1.0
        below, above = np.where(large, below, middle), np.where(large, middle, above)
    return np.where(mask, np.clip(alphas + (below + above) / 2, low, high), 0.0)
