"""Racing: candidates that are clearly worse on the shots so far are not tried on the others.

All candidates answer the same shots in the same order, block by block. After each block every candidate is compared
with the leader, shot by shot, by Wilcoxon's signed-rank test (Biometrics Bulletin 1, 1945), as irace (López-Ibáñez et
al., Operations Research Perspectives 3, 2016) and Optuna's Wilcoxon pruner do. Once a search has come near its end no
candidate is clearly worse than another, and it matters little which goes on: of those that are left the better half
does (sequential halving, Karnin et al., ICML 2013).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from zfleet.search.method import Score


def survivors(values: NDArray[np.float64], scores: list[Score], level: float, at_least: int) -> list[int]:
    """Choose the candidates that go on.

    A candidate drops out if it is clearly worse than the leader in what the shots are worth, or if it is no better
    there and clearly worse in what breaks ties.

    Args:
        values: [candidates, shots, 2]: each shot's part in the objective, and in the tie-break.
        scores: Of each candidate on these shots.
        level: Of the test: how often one that is no worse may drop out at a comparison.
        at_least: So many go on in any case, the best by score; beyond that at most half of the candidates.

    Returns:
        Their places, in order.
    """
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    leader, half = order[0], max(at_least, len(order) // 2)
    best, better = set(order[:at_least]), set(order[:half])
    worth, tie = values[leader, :, 0] - values[:, :, 0], values[leader, :, 1] - values[:, :, 1]
    worse = (_p_value(worth) < level) | ((worth.mean(axis=1) >= 0) & (_p_value(tie) < level))
    return [place for place in range(len(scores)) if place in best or (place in better and not worse[place])]


def _p_value(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Test each row for a median above 0, one-sided: [candidates]. Rows of zeros give 1.

    Args:
        differences: [candidates, shots].
    """
    p = np.ones(len(differences))
    some = (differences != 0).any(axis=1)
    if some.any():
        # Asymptotic: exact p-values of a handful of shots would be enumerated for every candidate.
        test = stats.wilcoxon(
            differences[some], alternative="greater", zero_method="zsplit", method="asymptotic", axis=1
        )
        p[some] = test.pvalue
    return p
