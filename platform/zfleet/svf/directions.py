"""Which singular directions form ``delta`` keeps, and how large the error is.

An expert's change of a matrix is W' - W = U diag(d) Vh with d = s * (z - 1). U and V are orthonormal, so |d| are
its singular values: of all rank-k changes, keeping the k largest |d| is the nearest (Eckart and Young), and what is
missing has the Frobenius norm sqrt(sum of the dropped d^2). ``truncation_error`` divides it by ||W|| = sqrt(sum s^2).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zfleet.svf.factors import MatrixFactors

_ROUNDING = 1e-9
"""The relative part of a bound that is left unspent, far above the rounding of sums in float64."""


def changes(z: Tensor, s: Tensor) -> Tensor:
    """Compute d = s * (z - 1), in float64: [E, r] from z [E, r] and s [r]."""
    return s.double() * (z.double() - 1.0)


def largest_directions(z: Tensor, s: Tensor, k: int) -> Tensor:
    """Choose the k directions of a matrix that matter most to the experts served together.

    The directions are shared by all experts in the batch; one is worth what the expert that changes it
    most makes of it: max over experts of |d|.

    Args:
        z: The experts' z of this matrix: [E, r], E >= 1.
        s: Its singular values: [r].
        k: How many; all r when r is smaller.

    Returns:
        Indices in ascending order: [min(k, r)] int64. Ties go to the larger singular value.
    """
    weight = changes(z, s).abs().amax(dim=0)
    order = torch.argsort(weight, descending=True, stable=True)
    return order[:k].sort().values


def fewest_directions(z: Tensor, s: Tensor, error: float) -> Tensor:
    """Choose few directions of a matrix that keep the error of every expert at or below a bound.

    All experts share the directions. Those that matter least, by max over experts of |d|, are dropped one after the
    other while the bound holds for each expert; one that would break it is kept, and the next is tried. For one expert
    no set is smaller. For several, none of the kept directions can be dropped as well, and there are at least as many
    as the most demanding expert needs alone; the smallest set of all is a covering problem, which is NP-hard.

    Args:
        z: The experts' z of this matrix: [E, r], E >= 1.
        s: Its singular values: [r].
        error: The bound on ``truncation_error``.

    Returns:
        Indices in ascending order: [k] int64; none if all experts are within the bound without any.
    """
    squares = changes(z, s) ** 2
    budget = float(((1 - _ROUNDING) * error * s.double().norm()) ** 2)
    order = torch.argsort(squares.amax(dim=0), stable=True)
    first = int((squares[:, order].cumsum(dim=1).amax(dim=0) <= budget).sum())
    # In NumPy, because a loop over thousands of small tensors takes three times as long in torch.
    spent = squares[:, order[:first]].sum(dim=1).numpy()
    columns, kept = squares.t().contiguous().numpy(), []
    for place in order[first:].tolist():
        more = spent + columns[place]
        if more.max() > budget:
            kept.append(place)
        else:
            spent = more
    return torch.tensor(sorted(kept), dtype=torch.int64)


def truncation_error(z: Tensor, s: Tensor, kept: Tensor) -> Tensor:
    """Compute ||W' - W - its part in the kept directions|| / ||W||, Frobenius, of each expert, in closed form.

    Args:
        z: The experts' z of this matrix: [E, r].
        s: Its singular values: [r].
        kept: Indices of the directions: [k].

    Returns:
        [E] float64; 0 for a matrix of zeros.
    """
    d = changes(z, s)
    d[:, kept] = 0.0
    whole = s.double().norm()
    return d.norm(dim=1) / whole if whole > 0 else torch.zeros(len(z), dtype=torch.float64)


def truncation_metrics(values: Mapping[str, Tensor], factors: Mapping[str, MatrixFactors]) -> dict[str, float]:
    """Say what form ``delta`` would leave out of one expert, for the registry.

    Args:
        values: {matrix: z [r]}.
        factors: {matrix: its factors}.

    Returns:
        ``truncation_error_rank_64``: the largest error of any matrix with the expert's own 64 directions.
        ``directions_for_error_1e-3``: the share of all directions that it needs for an error of 1e-3 in every matrix.
    """
    error, needed = 0.0, 0
    for name, value in values.items():
        z, s = value.unsqueeze(0).cpu(), factors[name].s.cpu()
        error = max(error, float(truncation_error(z, s, largest_directions(z, s, 64))))
        needed += len(fewest_directions(z, s, 1e-3))
    total = sum(value.numel() for value in values.values())
    return {"truncation_error_rank_64": error, "directions_for_error_1e-3": needed / total}
