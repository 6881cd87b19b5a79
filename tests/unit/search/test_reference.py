"""Method `reference` against an implementation of the paper's optimiser that was written for this test alone.

The formulas, from the reference implementation (SakanaAI/self-adaptive-llms @03a41ae), for K experts, population P and
E = int(P * elite ratio):

    mu_0 = 1/K, sigma_0 = (max - min) / 2, b_0 = mu_0
    x_i = clip(mu + sigma * n_i, min, max), n_i standard normal, i = 0 … P - 1;  x_0 = b
    c = x / sum_k x_k (over the experts, each matrix for itself)
    elites: the E members with the highest accuracies, by argpartition
    b = the most accurate member; of equals the one whose right answers have the highest mean log-likelihood
    mu = (1 - ema) * mean(elites) + ema * mu;  sigma = (1 - ema) * sd(elites) + ema * sigma, sd dividing by E - 1
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zfleet.errors import SpecError
from zfleet.search.methods.reference import Reference
from zfleet.search.space import Space

EXPERTS, MATRICES, POPULATION = 3, 4, 32


def _accuracy(coefficients: torch.Tensor) -> tuple[float, float]:
    """Score like ten shots: few different accuracies, many ties; and a log-likelihood."""
    target = torch.linspace(0.1, 0.9, EXPERTS * MATRICES, dtype=torch.float64).reshape(EXPERTS, MATRICES)
    distance = float(((coefficients - target / target.sum(0)) ** 2).sum())
    return max(0.0, round(10 * (1 - distance)) / 10), -distance


@pytest.mark.parametrize(("ema", "best_again", "ties"), [(0.0, True, True), (0.3, True, True), (0.0, False, False)])
def test_fifty_generations_equal_the_formulas(ema: float, best_again: bool, ties: bool) -> None:
    space = Space(("a", "b", "c"), "matrix", tuple("wxyz"))
    ours = Reference(space, population=POPULATION, seed=7, ema=ema, best_again=best_again, ties=ties)

    normals = np.random.default_rng(7)
    dim, elites = EXPERTS * MATRICES, int(POPULATION * 0.2)
    mu = torch.full((dim,), 1 / EXPERTS, dtype=torch.float64)
    sigma = torch.full((dim,), 0.5, dtype=torch.float64)
    best = mu.clone()
    for _ in range(50):
        x = torch.clamp(torch.tensor(normals.standard_normal((POPULATION, dim))) * sigma + mu, 0.0, 1.0)
        if best_again:
            x[0] = best
        grids = x.reshape(POPULATION, EXPERTS, MATRICES)
        # All zeros divide by 0 in its code; zfleet takes equal parts.
        coefficients = torch.nan_to_num(grids / grids.sum(1, keepdim=True), nan=1 / EXPERTS)
        scores = [_accuracy(c) for c in coefficients]

        asked = ours.ask()
        assert np.abs(asked - x.numpy()).max() < 1e-6
        assert np.abs(ours.mixtures(asked) - coefficients.reshape(POPULATION, dim).numpy()).max() < 1e-6
        ours.tell(asked, scores)

        accuracies = np.array([accuracy for accuracy, _ in scores])
        highest = [i for i in range(POPULATION) if accuracies[i] == accuracies.max()]
        best = x[max(highest, key=lambda i: scores[i][1]) if ties else highest[0]].clone()
        chosen = x[torch.tensor(np.argpartition(accuracies, -elites)[-elites:])]
        mu = (1 - ema) * chosen.mean(0) + ema * mu
        sigma = (1 - ema) * chosen.std(0) + ema * sigma
        assert np.abs(ours.mean - mu.numpy()).max() < 1e-6
        assert np.abs(ours.std - sigma.numpy()).max() < 1e-6
        assert np.abs(ours.best - best.numpy()).max() < 1e-6


def test_coefficients_that_are_all_zero_become_equal_parts() -> None:
    mixtures = Reference(Space(("a", "b"))).mixtures(np.array([[0.0, 0.0], [0.2, 0.6]]))
    assert np.allclose(mixtures, [[0.5, 0.5], [0.25, 0.75]])


def test_limits_that_the_paper_does_not_have_are_refused() -> None:
    with pytest.raises(SpecError, match="max_experts"):
        Reference(Space(("a", "b"), max_experts=1))
    with pytest.raises(SpecError, match="two elites"):
        Reference(Space(("a", "b")), population=8, elites=0.1)
