"""What tests of the command share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from zfleet.search.plan import Generation, Tried
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet_jobs.search.mixtures import FoundMixture, SearchTrial, ShotScore


@pytest.fixture(scope="session")
def found_mixture() -> Callable[[str, Mapping[str, ZVector], Sequence[float]], FoundMixture]:
    """``found_mixture(name, experts, alphas)``: the result of a search of two generations, of two chunks each.

    The second expert is the best alone: all are equally right on the shots, and its answers are the likeliest.
    """
    return _found_mixture


def _found_mixture(name: str, experts: Mapping[str, ZVector], alphas: Sequence[float]) -> FoundMixture:
    return FoundMixture(
        name=name,
        z=mix(list(experts.values()), alphas),
        alphas=dict(zip(experts, alphas, strict=True)),
        score=ShotScore(0.6, -1.0),
        base=ShotScore(0.2, -2.0),
        singles={expert: ShotScore(0.4, -1.0 if place == 1 else -1.5) for place, expert in enumerate(experts)},
        searched_best=0.7,
        selection={"winner": ShotScore(0.5, -1.0), "base": ShotScore(0.1, -2.0), "best_single": ShotScore(0.3, -1.0)},
        test={},
        targets=1,
        tried=(Tried(-1, np.zeros(len(experts)), (0.2, -2.0), 10), Tried(0, np.array(alphas), (0.6, -1.0), 10)),
        evaluations=640,
        history=(Generation(0.5, 0.3, 320), Generation(0.6, 0.4, 640)),
        trials=tuple(
            SearchTrial(2 * at + chunk, chunk, "population", at, 16, 160, f"actor-{chunk}", 160, 16, 0.1, 0.0)
            for at in range(2)
            for chunk in range(2)
        ),
        seconds=1.0,
    )
