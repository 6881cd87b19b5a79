"""One search from its start to its report, on shots whose answers are known."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import numpy as np
import pytest

from zfleet.errors import CheckpointError, RewardError, SpecError
from zfleet.search.method import Method
from zfleet.search.methods.cross_entropy import CrossEntropy
from zfleet.search.methods.reference import Reference
from zfleet.search.objective import Measured, Objective
from zfleet.search.plan import Outcome, Plan, Round
from zfleet.search.screening import screen
from zfleet.search.search import Search
from zfleet.search.space import Points, Space


class World:
    """Shots of three skills; each of the first three experts helps with one, the others harm a little."""

    def __init__(self, experts: int, samples: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.helps = random.normal(-0.3, 0.1, (experts, 3))
        self.helps[:3] = np.eye(3) * 2.6 - 0.2
        self.skill = random.integers(0, 3, samples)
        self.hard = random.normal(-0.8, 0.6, samples)
        self.asked: list[Round] = []

    def answer(self, search: Search) -> list[Measured]:
        """Measure the pending round: accuracy and log-likelihood of each point on each of its samples.

        A dispatcher sends each sample to the expert that helps with it, but its skill 2 to the base.
        """
        assert search.pending is not None
        self.asked.append(search.pending)
        if search.pending.stage == "prior":
            skills = np.eye(len(self.helps)) * [[1.0], [1.0], *[[0.0]] * (len(self.helps) - 2)]
            return [skills[self.skill[list(samples)]] for samples in search.pending.samples]
        return [
            self.measure(point, np.array(samples))
            for point, samples in zip(search.pending.points, search.pending.samples, strict=True)
        ]

    def measure(self, point: np.ndarray, samples: np.ndarray) -> Measured:
        margin = self.hard[samples] + point @ self.helps[:, self.skill[samples]]
        return np.stack([(margin > 0).astype(float), -np.log1p(np.exp(-margin))], axis=1)

    def run(self, search: Search) -> Outcome:
        while search.pending is not None:
            search.tell(self.answer(search))
        assert search.outcome is not None
        return search.outcome


def _search(experts: int = 4, *, population: int = 16, **plan: int | float | None) -> Search:
    sizes = {"shots": 12, "selection": 8, "test": 40, "generations": 4} | plan
    method = partial(CrossEntropy, population=population, seed=1)
    return Search(Space(tuple(f"e{n}" for n in range(experts))), method, Objective(), Plan(**sizes))  # type: ignore[arg-type]


def test_finds_the_experts_that_help_and_reports_them_on_the_test() -> None:
    world = World(4, 60)
    outcome = world.run(_search())
    winner = outcome.winner
    assert winner[:3].min() > 0.5
    assert winner[3] < 0.3
    truth = {name: rows[:, 0].mean() for name, rows in outcome.test.items()}
    assert truth["winner"] > truth["best_single"] > truth["base"]
    assert (outcome.test["winner"] == world.measure(winner, np.arange(20, 60))).all()
    assert outcome.searched_best >= outcome.shots["winner"][0]
    assert set(outcome.selection) == {"winner", "base", "best_single"}


def test_the_base_and_every_single_expert_come_first() -> None:
    pending = _search().pending
    assert pending is not None
    assert pending.stage == "known"
    assert pending.points.tolist() == [[0.0] * 4, *np.eye(4).tolist()]
    assert pending.samples == (tuple(range(12)),) * 5


@pytest.mark.parametrize("keep", [None, 3])
def test_a_search_with_a_prior_begins_at_the_mean_of_what_a_dispatcher_decides(keep: int | None) -> None:
    world, given = World(4, 60), []

    def method(space: Space, mean: Points) -> Method:
        given.append((space, mean))
        return CrossEntropy(space, population=16, mean=mean, seed=1)

    space = Space(("e0", "e1", "e2", "e3"))
    search = Search(space, method, Objective(), Plan(12, 8, 40, 2, keep=keep), prior=True)
    for _ in range(2):
        search.tell(world.answer(search))
    assert [asked.stage for asked in world.asked] == ["known", "prior"]
    shares = np.bincount(world.skill[:12], minlength=3) / 12
    mean = [shares[0], shares[1], 0.0, 0.0]
    # It is tried like the base and the experts, before the first population.
    assert search.pending is not None
    assert search.pending.stage == "known"
    assert search.pending.points.tolist() == [mean]
    assert world.run(copy.deepcopy(search)).winner.tobytes() == world.run(search).winner.tobytes()
    left, start = given[-1]
    assert len(left.experts) == (keep or 4)
    assert start.tolist() == [[value for name, value in zip(space.experts, mean, strict=True) if name in left.experts]]
    assert search.evaluations == sum(
        len(samples)
        for asked in world.asked[: len(search.told)]
        if asked.stage not in ("prior", "test")
        for samples in asked.samples
    )


def test_decisions_of_other_sizes_or_that_are_not_finite_are_refused() -> None:
    world = World(4, 60)
    space = Space(("e0", "e1", "e2", "e3"))
    search = Search(space, CrossEntropy, Objective(), Plan(12), prior=True)
    search.tell(world.answer(search))
    with pytest.raises(ValueError, match="the round asks for"):
        search.tell([np.zeros((12, 2))])
    with pytest.raises(RewardError, match="alphas must be finite"):
        search.tell([np.full((12, 4), np.nan)])
    assert len(search.told) == 1


def test_no_candidate_sees_the_samples_of_selection_and_test_before_the_end() -> None:
    world, search = World(4, 60), _search()
    world.run(search)
    for asked in world.asked:
        numbers = {sample for samples in asked.samples for sample in samples}
        assert numbers <= {"final": set(range(12, 20)), "test": set(range(20, 60))}.get(asked.stage, set(range(12)))
    finalists = next(asked for asked in world.asked if asked.stage == "final")
    # The finalists, the method's centre, the base and the best single expert.
    assert len(finalists.points) <= search.plan.finalists + 3
    assert [len(asked.points) for asked in world.asked if asked.stage == "test"] == [3]


def test_without_racing_every_candidate_answers_every_shot_once() -> None:
    world, search = World(4, 60), _search()
    world.run(search)
    assert {one.shots for one in search.tried()} == {12}
    pairs = [
        (point.tobytes(), sample)
        for asked in world.asked
        for point, samples in zip(asked.points, asked.samples, strict=True)
        for sample in samples
    ]
    assert len(pairs) == len(set(pairs))


def test_racing_saves_answers_and_finds_as_much() -> None:
    whole, raced = _search(shots=40), _search(shots=40, block=5)
    world = World(4, 90)
    full, fast = world.run(whole), world.run(raced)
    assert raced.evaluations < 0.4 * whole.evaluations
    assert fast.test["winner"][:, 0].mean() >= full.test["winner"][:, 0].mean() - 0.05
    dropped = [one for one in raced.tried() if one.shots < 40]
    assert dropped
    # Those that dropped out are never the incumbents, which answer all shots.
    assert sum(one.shots == 40 for one in raced.tried()) >= raced.plan.finalists


def test_each_generation_of_a_race_begins_with_another_block() -> None:
    world, search = World(4, 60), _search(block=3)
    world.run(search)
    first: dict[int, tuple[int, ...]] = {}
    for asked in world.asked:
        if asked.stage == "population":
            first.setdefault(asked.generation, asked.samples[0])
    assert [samples[0] for samples in first.values()] == [0, 3, 6, 9]


def test_screening_keeps_the_experts_that_are_best_alone() -> None:
    world, search = World(40, 60), _search(40, keep=4)
    outcome = world.run(search)
    used = {place for one in search.tried() if one.generation >= 0 for place in np.flatnonzero(one.point).tolist()}
    assert len(used) <= 4
    assert {0, 1, 2} <= used
    assert set(np.argsort(-outcome.winner)[:3].tolist()) == {0, 1, 2}


def test_of_twins_one_is_enough() -> None:
    alike = np.eye(4)
    alike[0, 1] = alike[1, 0] = 0.99
    scores = [(0.9,), (0.8,), (0.5,), (0.1,)]
    assert screen(scores, np.eye(4), 2) == [0, 1]
    assert screen(scores, alike, 2) == [0, 2]
    assert screen(scores, alike, 4) == [0, 1, 2, 3]


def test_screening_goes_by_each_entry_of_the_scores_in_turn() -> None:
    few_are_right = [(0.2, -9.0), (0.1, -1.0), (0.2, -8.0), (0.1, -2.0), (0.1, -7.0)]
    assert screen(few_are_right, np.eye(5), 2) == [1, 2]
    assert screen(few_are_right, np.eye(5), 4) == [0, 1, 2, 3]


def test_alphas_that_sum_to_one_leave_the_base_out() -> None:
    space = Space(("a", "b", "c"), sum_to_one=True)
    search = Search(space, partial(CrossEntropy, population=8), Objective(), Plan(shots=6, selection=4, generations=2))
    world = World(3, 10)
    outcome = world.run(search)
    assert outcome.winner.sum() == pytest.approx(1.0)
    assert all(one.point.sum() == pytest.approx(1.0) for one in search.tried() if one.point.any())


@pytest.mark.parametrize("selection", [0, 8])
def test_the_papers_method_returns_its_own_best_whatever_else_is_better(selection: int) -> None:
    class Harmful(World):
        """Every expert harms: the base is better than any mixture."""

        def __init__(self) -> None:
            super().__init__(3, 60)
            self.helps = np.full((3, 3), -1.0)
            self.hard = np.random.default_rng(0).uniform(0.1, 2.0, 60)

    method = partial(Reference, population=16, seed=1)
    search = Search(Space(("a", "b", "c")), method, Objective(), Plan(12, selection=selection, test=40, generations=2))
    outcome = Harmful().run(search)
    assert outcome.shots["base"] > outcome.shots["winner"]
    assert outcome.winner.sum() == pytest.approx(1.0)
    own = [one for one in search.tried() if one.generation >= 0]
    assert outcome.shots["winner"] == max(one.score for one in own)
    assert set(outcome.selection) == ({"winner", "base", "best_single"} if selection else set())


@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("rounds", [0, 1, 3, 5])
def test_copied_anywhere_it_goes_on_identically(rounds: int, block: int | None) -> None:
    world, search = World(4, 60), _search(block=block)
    for _ in range(rounds):
        search.tell(world.answer(search))
    copies = [copy.deepcopy(search), pickle.loads(pickle.dumps(search)), _search(block=block)]  # noqa: S301
    copies[2].replay(search.told)
    ends = [World(4, 60).run(one) for one in (search, *copies)]
    assert len({end.winner.tobytes() for end in ends}) == 1
    assert all(one.told == search.told for one in copies)


def test_the_answers_of_another_search_are_refused() -> None:
    world, search = World(4, 60), _search()
    world.run(search)
    with pytest.raises(CheckpointError, match="round 1 of the stored search tries other points"):
        _search(population=15).replay(search.told)


def test_a_value_that_is_not_finite_is_refused_and_nothing_is_kept() -> None:
    world, search = World(4, 60), _search()
    measured = world.answer(search)
    measured[2][5, 1] = np.nan
    with pytest.raises(RewardError, match="log_likelihood of a candidate"):
        search.tell(measured)
    assert not search.told
    with pytest.raises(ValueError, match="the round asks for"):
        search.tell(measured[1:])


def test_plans_that_make_no_search_are_refused() -> None:
    for plan in ({"shots": 0}, {"generations": 0}, {"block": 0}, {"block": 13}):
        with pytest.raises(SpecError):
            _search(**plan)


def test_a_search_without_fresh_samples_lets_the_shots_choose() -> None:
    outcome = World(4, 60).run(_search(selection=0, test=0))
    assert not outcome.selection
    assert not outcome.test
    assert outcome.winner.any()
