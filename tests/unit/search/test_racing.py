"""Who goes on in a race: for one target and for two; and what candidates are compared by."""

from __future__ import annotations

import numpy as np

from zfleet.search.method import Score
from zfleet.search.objective import Objective
from zfleet.search.pareto import best_first, fronts
from zfleet.search.racing import at_most, survivors


def test_a_race_drops_those_that_are_clearly_worse_and_keeps_the_better_half() -> None:
    # Eight candidates on ten shots: the first four right everywhere, the others nowhere.
    right = np.repeat([[1.0], [0.0]], 4, axis=0) @ np.ones((1, 10))
    values = np.stack([right, np.zeros_like(right)], axis=-1)
    scores: list[Score] = [(float(row.mean()), 0.0) for row in right]
    assert survivors(values, scores, 0.1, at_least=2) == [0, 1, 2, 3]
    assert survivors(values, scores, 0.1, at_least=6) == [0, 1, 2, 3, 4, 5]
    # Equally right, but less likely on every shot.
    tie = np.stack([np.ones((4, 10)), np.repeat([[0.0], [-0.1], [-5.0], [-6.0]], 10, axis=1)], axis=-1)
    assert survivors(tie, [(1.0, 0.0), (1.0, -0.1), (1.0, -5.0), (1.0, -6.0)], 0.1, at_least=1) == [0]


def test_a_race_for_two_targets_keeps_those_that_are_good_at_either() -> None:
    def race(means: list[list[float]], at_least: int, targets: int = 2) -> list[int]:
        parts = np.array(means)[:, None, :targets] + np.tile([-0.05, 0.05], 10)[None, :, None]
        values = np.concatenate([parts, np.zeros((len(means), 20, 1))], axis=2)
        return survivors(values, [(*row[:targets], 0.0) for row in means], 0.1, at_least)

    # Two candidates for each target, one between them, and three that are no better anywhere.
    means = [[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.0, 1.0], [0.0, 0.0], [0.1, 0.1], [0.4, 0.0]]
    assert race(means, at_least=1) == [0, 1, 2, 4]
    assert race(means, at_least=5) == [0, 1, 2, 3, 4]
    # By the first target alone the second one's best drops out.
    assert race(means, at_least=1, targets=1) == [0]
    # Those of the better half that are clearly dominated drop out.
    assert race([[1.0, 0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 0.5], *[[0.0, 0.0]] * 4], at_least=1) == [0, 1]


def test_those_that_dropped_out_are_no_better_in_any_target_than_those_that_answered_all() -> None:
    finished: list[Score] = [(1.0, 0.2, -1.0), (0.3, 0.9, -2.0)]
    assert at_most((0.1, 1.0, 0.0), finished, 2) == (0.1, 0.2, -2.0)
    assert at_most((0.4, 9.0), [(0.5, -3.0), (0.5, -1.0)], 1) == (0.4, 9.0)
    assert at_most((0.6, 9.0), [(0.5, -3.0), (0.5, -1.0)], 1) == (0.5, -3.0)


def test_fronts_are_sorted_by_dominance_and_span_their_targets() -> None:
    values = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.6, 0.4], [1.0, 0.0]])
    assert fronts(values) == [[1, 2, 3, 4, 5], [0]]
    assert best_first(values)[-1] == 0
    assert {*map(tuple, values[best_first(values)[:2]].tolist())} == {(1.0, 0.0), (0.0, 1.0)}


def test_objectives_weigh_metrics_and_break_ties() -> None:
    objective = Objective(({"accuracy": 1.0, "part.short": 0.5},))
    assert objective.metrics == ("accuracy", "part.short", "log_likelihood")
    measured = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -3.0]])
    assert objective.score(measured) == (0.75, -2.0)
    assert objective.values(measured).tolist() == [[1.0, -1.0], [0.5, -3.0]]
    own = Objective(tie="own_log_likelihood")
    # Of the answers themselves right ones count alone; 0 if none is right.
    assert own.score(np.array([[1.0, -0.2], [0.0, -9.0]])) == (0.5, -0.2)
    assert own.score(np.array([[0.0, -9.0]])) == (0.0, 0.0)
    two = Objective(({"accuracy": 1.0}, {"reward": 1.0}))
    assert two.values(np.array([[1.0, -1.0, -2.0]])).tolist() == [[1.0, -1.0, -2.0]]
    assert two.score(np.array([[1.0, -1.0, -2.0]])) == (1.0, -1.0, -2.0)
