"""A dispatcher's decisions as the point that a search begins at: its experts, and what it proposes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from zfleet.adapt.document import DispatcherDocument, StepDocument
from zfleet.adapt.stored import StoredDispatcher
from zfleet.config.names import Alpha
from zfleet.config.search import SpaceSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.errors import SpecError
from zfleet.svf.zvector import ZVector
from zfleet.tasks.lab import lab_task
from zfleet.testing.fake_engine import FAKE_LAYOUT, FakeEngine, fake_z
from zfleet_jobs.search.prior import Prior, check_routes
from zfleet_jobs.search.problem import SearchProblem, problems_digest, shots_of
from zfleet_jobs.search.proposals import propose
from zfleet_jobs.search.settings import SearchSettings

ONE, TWO = fake_z(1), fake_z(2)
TASK = shots_of(lab_task("sort", train_size=8, test_size=1), 3, 0)


def _few_shot(mixture: Mapping[str, Alpha], task: str = TASK.name, **experts: ZVector) -> StoredDispatcher:
    known = {"first/1": ONE, "second/4": TWO} | {f"{name}/1": z for name, z in experts.items()}
    return StoredDispatcher(
        DispatcherDocument(
            base=ONE.base,
            factors=ONE.factors,
            experts={name: z.digest for name, z in known.items()},
            tasks={task: dict(mixture)},
            steps=(StepDocument(kind="few_shot"),),
        )
    )


def _problem(stored: StoredDispatcher | None = None, asked: tuple[ZVector, ...] = ()) -> SearchProblem:
    prior = None if stored is None else Prior("router/2", stored, asked)
    # The same z under other names than the dispatcher's.
    return SearchProblem("exam", {"one/1": ONE, "two/4": TWO}, TASK, (), prior)


def _propose(problem: SearchProblem, **space: Any) -> list[list[float]]:
    tokenizer: Any = None
    with SyncEngine(FakeEngine(slots=4, z_rows=4)) as engine:
        found = propose(engine, tokenizer, problem, SearchSettings(space=SpaceSpec(**space)), (0, 2))
        assert engine.stats().known_z == 0
    return found


@pytest.mark.parametrize(
    ("alphas", "mixture", "point"),
    [
        ("global", {"first/1": 0.25, "second/4": 0.5}, [0.25, 0.5]),
        ("global", {"second/4": (0.5, 1.0)}, [0.0, 0.75]),
        ("layer", {"second/4": (0.5, 1.0), "first/1": 0.25}, [0.25, 0.25, 0.5, 1.0]),
        ("kind", {"first/1": (0.5, 1.0)}, [0.75, 0.0]),
        ("matrix", {"first/1": (0.5, 1.0)}, [0.5, 1.0, 0.0, 0.0]),
    ],
)
def test_a_decision_is_a_point_of_the_searchs_space(
    alphas: Any, mixture: Mapping[str, Alpha], point: list[float]
) -> None:
    assert len(FAKE_LAYOUT.names) == 2, "this test has a matrix in each of two layers"
    assert _propose(_problem(_few_shot(mixture)), alphas=alphas) == [point, point]


def test_prompts_that_are_left_to_the_base_are_the_base() -> None:
    assert _propose(_problem(_few_shot({"first/1": 1.0}, task="another"), asked=(fake_z(7),))) == [[0.0, 0.0]] * 2


def test_a_dispatcher_that_routes_to_other_experts_is_refused_by_name() -> None:
    experts = {"one/1": ONE.digest, "two/4": TWO.digest}
    check_routes("router/2", _few_shot({"first/1": 0.5, "second/4": 0.5}), experts)
    strange = _few_shot({"first/1": 0.5, "third/1": 0.5}, third=fake_z(3))
    with pytest.raises(SpecError, match=rf"prior is router/2, which routes to third/1 of z {fake_z(3).digest[:12]}"):
        check_routes("router/2", strange, experts)
    # Known without being routed to: it may be asked.
    check_routes("router/2", _few_shot({"first/1": 1.0}, third=fake_z(3)), experts)
    # Another version of an expert has another z.
    with pytest.raises(SpecError, match=r"routes to second/4 .*: the experts of the search are second/5 of z"):
        check_routes("router/2", _few_shot({"second/4": 1.0}), {"second/5": ONE.digest})


def test_another_dispatcher_is_another_search_and_its_name_does_not_matter() -> None:
    def digest(problem: SearchProblem, prior: str | None = "router") -> str:
        return problems_digest({"exam": problem}, SearchSettings(space=SpaceSpec(prior=prior)), "1")

    half, whole = _few_shot({"first/1": 0.5}), _few_shot({"first/1": 1.0})
    assert digest(_problem(half)) == digest(_problem(half), "router/2")
    assert len({digest(_problem(half)), digest(_problem(whole)), digest(_problem(), None)}) == 3
