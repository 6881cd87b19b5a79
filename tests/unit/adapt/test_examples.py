"""Known prompts as points: what is near, what is strange, exactly and approximately."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zfleet.adapt import examples as module
from zfleet.adapt.examples import NEIGHBOURS, Examples
from zfleet.errors import DispatcherError


def clusters(labels: int, each: int, hidden: int = 16, seed: int = 0, noise: float = 0.5) -> dict[str, np.ndarray]:
    """Draw hidden states: a centre for each label, and one dimension that is a hundred times as large as the others."""
    centres = np.random.default_rng(99).standard_normal((labels, hidden))
    rng = np.random.default_rng(seed)
    found = {}
    for place in range(labels):
        states = centres[place] + noise * rng.standard_normal((each, hidden))
        states[:, 0] = 100 * rng.standard_normal(each)
        found[f"l{place}"] = states.astype(np.float32)
    return found


def novelties(examples: Examples, label: str, states: np.ndarray) -> list[float]:
    return [examples.novelty(label, examples.distances(state)) for state in states]


def test_the_nearest_are_the_nearest() -> None:
    states = clusters(3, 40)
    examples = Examples.from_states(states)
    query = clusters(3, 1, seed=7)["l1"][0]
    every = np.concatenate(list(states.values()))
    standard = (every - every.mean(0)) / every.std(0)
    point = (query - every.mean(0)) / every.std(0)
    cosines = (standard @ point / np.linalg.norm(standard, axis=1) / np.linalg.norm(point)).reshape(3, 40)
    for found, own in zip(examples.distances(query), cosines, strict=True):
        assert found == pytest.approx(np.sqrt(2 - 2 * np.sort(own)[::-1][:NEIGHBOURS]), abs=1e-3)


def test_one_large_dimension_does_not_decide() -> None:
    examples = Examples.from_states(clusters(4, 50))
    for place in range(4):
        for query in clusters(4, 10, seed=3)[f"l{place}"]:
            assert np.argmin([found[0] for found in examples.distances(query)]) == place


def test_novelty_is_about_1_for_usual_prompts_of_any_label_and_more_for_strange_ones() -> None:
    def drawn(labels: int, each: int, seed: int) -> dict[str, np.ndarray]:
        return clusters(labels, each, seed=seed, noise=0.3)

    examples = Examples.from_states({**drawn(3, 200, 0), "l2": drawn(3, 20, 0)["l2"]})
    usual = {label: novelties(examples, label, states) for label, states in drawn(3, 100, 5).items()}
    for found in usual.values():
        assert 0.8 < float(np.median(found)) < 1.2
    limit = np.quantile(np.concatenate(list(usual.values())), 0.98)
    for label in examples.labels:
        assert np.median(novelties(examples, label, drawn(4, 100, 6)["l3"])) > limit
    assert np.median(novelties(examples, "l0", drawn(3, 100, 5)["l1"])) > limit, "a wrong label is strange"


def test_one_odd_example_makes_nothing_around_it_usual() -> None:
    states = clusters(3, 200, noise=0.3)
    odd = clusters(4, 11, seed=6, noise=0.3)["l3"]
    states["l0"][0] = odd[0]
    examples = Examples.from_states(states)
    limit = np.quantile(novelties(examples, "l0", clusters(3, 200, seed=5, noise=0.3)["l0"]), 0.98)
    assert min(novelties(examples, "l0", odd[1:])) > limit


def test_a_label_is_added_and_nothing_about_the_others_changes() -> None:
    states = clusters(4, 60)
    before = Examples.from_states({label: states[label] for label in ("l0", "l1", "l2")})
    after = before.with_label("l3", states["l3"][:20])
    assert after.labels == ("l0", "l1", "l2", "l3")
    assert after.counts.tolist() == [60, 60, 60, 20]
    assert np.array_equal(after.points[:180], before.points)
    assert np.array_equal(after.spreads[:3], before.spreads)
    assert np.median(novelties(after, "l3", states["l3"][20:])) < 1.2
    for old, new in zip(before.distances(states["l1"][0]), after.distances(states["l1"][0]), strict=False):
        assert np.array_equal(old, new)


def test_approximate_search_finds_what_exact_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    states = {"a": rng.standard_normal((1500, 32)), "b": rng.standard_normal((1500, 32)) + 1}
    exact = Examples.from_states(states)
    queries = rng.standard_normal((200, 32)).astype(np.float32)
    true = np.array([exact.distances(query) for query in queries])
    monkeypatch.setattr(module, "EXACT_BELOW", 1000)
    approximate, again = Examples.from_states(states), Examples.from_states(states)
    assert approximate.spreads == pytest.approx(exact.spreads, rel=0.02)
    found = np.array([approximate.distances(query) for query in queries])
    assert np.isclose(found, true, atol=1e-5).mean() > 0.97
    assert np.array_equal([again.distances(query) for query in queries], found), "the same points, the same index"


def test_fewer_examples_than_neighbours_are_enough() -> None:
    examples = Examples.from_states({"a": clusters(1, 5)["l0"]})
    (distances,) = examples.distances(clusters(1, 1, seed=4)["l0"][0])
    assert len(distances) == 5


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (np.zeros((4, 8), np.float32), "4 examples"),
        (np.zeros((5, 8), np.float32), "all the same"),
        (np.full((5, 8), math.nan, np.float32), "NaN"),
        (np.zeros(8, np.float32), r"\[8\]"),
    ],
)
def test_examples_that_say_nothing_are_refused(states: np.ndarray, message: str) -> None:
    with pytest.raises(DispatcherError, match=message):
        Examples.from_states({"a": states})


def test_hidden_states_of_another_base_are_refused() -> None:
    examples = Examples.from_states(clusters(2, 10))
    with pytest.raises(DispatcherError, match="has 9 numbers, the examples have 16"):
        examples.distances(np.zeros(9, np.float32))
    with pytest.raises(DispatcherError, match="are"):
        examples.with_label("new", np.ones((10, 9), np.float32))
