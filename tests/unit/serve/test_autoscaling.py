"""The bounds of a spec reach Serve, and its policy follows the answers that run and wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zfleet.config.load import parse_spec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import EngineSpec
from zfleet.errors import SpecError
from zfleet_cluster.fleet.serve_replicas import LOAD, ReplicasForLoad


def test_without_a_maximum_the_number_is_fixed() -> None:
    from zfleet_serve.app import _replicas

    assert _replicas(ServeSpec(replicas=2)) == {"num_replicas": 2}


def test_the_bounds_and_the_policy_reach_serve() -> None:
    from zfleet_serve.app import _replicas

    (bounds,) = _replicas(ServeSpec(replicas=2, max_replicas=5, engine=EngineSpec(slots=40))).values()
    assert (bounds.min_replicas, bounds.max_replicas) == (2, 5)
    assert bounds.policy.get_policy() is ReplicasForLoad
    assert bounds.policy.policy_kwargs == {"answers_each": 30.0}


@pytest.mark.parametrize(("loads", "replicas"), [([], 0), ([0], 0), ([24], 1), ([24, 1], 2), ([30, 30, 13], 4)])
def test_the_load_of_all_replicas_decides(loads: list[float], replicas: int) -> None:
    context: Any = SimpleNamespace(aggregated_metrics={LOAD: dict(enumerate(loads))})
    assert ReplicasForLoad(answers_each=24)(context) == (replicas, {})
    nothing_counted: Any = SimpleNamespace(aggregated_metrics=None)
    assert ReplicasForLoad(answers_each=24)(nothing_counted) == (0, {})


def test_a_maximum_below_the_fewest_is_refused() -> None:
    with pytest.raises(SpecError, match=r"max_replicas is 1, replicas 2"):
        parse_spec({"replicas": 2, "max_replicas": 1}, ServeSpec)
