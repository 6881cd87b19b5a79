"""The directions that form ``delta`` computes with: chosen for some experts, and what each z loses by them."""

from __future__ import annotations

import torch
from torch import Tensor

from zfleet.config.specs import DeltaSpec
from zfleet.svf.directions import changes, fewest_directions, largest_directions
from zfleet.svf.layout import ZLayout


class SingularValues:
    """The singular values of all matrices of a base, for choices and their errors.

    Attributes:
        flat: [R], in the order of a flat z.
    """

    def __init__(self, flat: Tensor, layout: ZLayout) -> None:
        """Take the singular values. ``layout`` says which belong to which matrix."""
        self.flat = flat
        self._places = list(layout.slices.values())
        self._owner = torch.repeat_interleave(torch.tensor(layout.ranks))
        self._whole = self._sums(flat.double() ** 2)

    def choose(self, z: Tensor, spec: DeltaSpec) -> Tensor:
        """Choose the directions of every matrix for experts z [E, R], E >= 1. Returns which are kept: [R] bool."""
        kept = torch.zeros(len(self.flat), dtype=torch.bool)
        for place in self._places:
            if spec.rank is not None:
                chosen = largest_directions(z[:, place], self.flat[place], spec.rank)
            else:
                assert spec.error is not None  # DeltaSpec has one of them
                chosen = fewest_directions(z[:, place], self.flat[place], spec.error)
            kept[place][chosen] = True
        return kept

    def error(self, z: Tensor, kept: Tensor) -> float:
        """Compute the largest ``zfleet.svf.directions.truncation_error`` of any matrix: z [R], kept [R] bool."""
        dropped = self._sums((changes(z, self.flat) ** 2).masked_fill(kept, 0.0))
        return float((dropped / self._whole.clamp_min(torch.finfo(torch.float64).tiny)).max().sqrt())

    def _sums(self, values: Tensor) -> Tensor:
        return torch.zeros(len(self._places), dtype=torch.float64).index_add(0, self._owner, values)


class Directions:
    """One choice, which all experts of an engine share.

    Attributes:
        kept: Which directions are computed: [R] bool. All of a matrix that the workers compute exactly anyway.
        number: Counts the choices of an engine, from 1.
    """

    def __init__(self, kept: Tensor, number: int, singular: SingularValues, bound: float | None) -> None:
        """Describe a choice: see above, and ``bound`` is the error that it was made for, if any."""
        self.kept = kept
        self.number = number
        self._singular = singular
        self._bound = bound
        self._errors: dict[str, float] = {}

    def fits(self, digest: str, z: Tensor) -> bool:
        """Say whether a z [R] is within the bound. One that is not is computed exactly."""
        return self._bound is None or self._error(digest, z) <= self._bound

    def error(self, digest: str, z: Tensor) -> float:
        """Return what the engine leaves out of a z [R]: its error, or 0 if it is computed exactly."""
        return self._error(digest, z) if self.fits(digest, z) else 0.0

    def forget(self, digest: str) -> None:
        """Forget a z."""
        self._errors.pop(digest, None)

    def _error(self, digest: str, z: Tensor) -> float:
        if digest not in self._errors:
            self._errors[digest] = self._singular.error(z, self.kept)
        return self._errors[digest]
