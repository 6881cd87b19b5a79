"""Racing: candidates that are clearly worse on the shots so far are not tried on the others.

All candidates answer the same shots in the same order, block by block. After each block every candidate is compared
with the leader, shot by shot, by Wilcoxon's signed-rank test (Biometrics Bulletin 1, 1945), as irace (López-Ibáñez et
al., Operations Research Perspectives 3, 2016) and Optuna's Wilcoxon pruner do. Once a search has come near its end no
candidate is clearly worse than another, and it matters little which goes on: of those that are left the better half
does (sequential halving, Karnin et al., ICML 2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from zfleet.search.method import Score
from zfleet.search.pareto import best_first, fronts


def survivors(values: NDArray[np.float64], scores: list[Score], level: float, at_least: int) -> list[int]:
    """Choose the candidates that go on.

    A candidate drops out if a leader is at least as good in every target, and clearly better in one of them or in what
    breaks ties. The leader is the best by score; with two targets, every candidate that no other one dominates leads.

    Args:
        values: [candidates, shots, targets + 1]: each shot's part in each target, and in the tie-break.
        scores: Of each candidate on these shots.
        level: Of the test: how often one that is no worse may drop out at a comparison.
        at_least: So many go on in any case, the best by score; beyond that at most half of the candidates. With two
            targets the best are chosen front by front.

    Returns:
        Their places, in order.
    """
    means = values[:, :, :-1].mean(axis=1)
    if means.shape[1] == 1:
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        leaders = order[:1]
    else:
        order, leaders = best_first(means), fronts(means)[0]
    best, better = set(order[:at_least]), set(order[: max(at_least, len(order) // 2)])
    worse = np.zeros(len(scores), dtype=bool)
    for leader in leaders:
        # More leaders are more comparisons, at the same risk together (Bonferroni).
        clearly = [_p_value(column.T) < level / len(leaders) for column in (values[leader] - values).T]
        worse |= (means <= means[leader]).all(axis=1) & np.any(clearly, axis=0)
    return [place for place in range(len(scores)) if place in best or (place in better and not worse[place])]


def at_most(score: Score, finished: Sequence[Score], targets: int) -> Score:
    """Lower the score of a candidate that dropped out, so that chance ranks it above none that answered all shots.

    Args:
        score: On the shots that it answered.
        finished: Scores of those that answered all.
        targets: How many entries of a score are targets.
    """
    if targets == 1:
        return min(score, *finished)
    return tuple(min(column) for column in zip(score, *finished, strict=True))


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
