"""The searcher by direct calls, as Ray Tune makes them: the barrier, actors handed over, failures, restore."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.search import Searcher

from zfleet.errors import CheckpointError, RewardError
from zfleet.search.methods.random_search import RandomSearch
from zfleet.search.objective import Objective
from zfleet.search.plan import Plan
from zfleet.search.search import Search
from zfleet.search.space import Points, Space
from zfleet_jobs.search.searcher import RECORD, ChunkSearcher

MakeSearch = Callable[..., Search]
Answered = Callable[[Sequence[Sequence[float]], Sequence[Sequence[int]]], list[list[list[float]]]]
Trial = dict[str, Any]


class Tune:
    """Makes searchers, and runs their trials as Ray Tune would."""

    def __init__(self, small_search: MakeSearch, answered: Answered) -> None:
        self._search, self._answered = small_search, answered

    def searcher(self, *names: str, chunks: int = 2, actors: int = 2, **plan: int | None) -> ChunkSearcher:
        searches = {name: self._search(seed, **plan) for seed, name in enumerate(names or ("exam",))}
        return ChunkSearcher(searches, chunks=chunks, actors=actors)

    def result(self, config: Trial) -> Trial:
        """What the trainable reports."""
        given = {key: config[key] for key in ("search", "round", "chunk", "stage", "generation")}
        return dict.fromkeys(RECORD, 0) | given | {"measured": self._answered(config["points"], config["samples"])}

    def finish(self, searcher: ChunkSearcher, trial: str, config: Any) -> None:
        """A trial's result, and its end."""
        searcher.on_trial_result(trial, self.result(config))
        searcher.on_trial_complete(trial, self.result(config))

    def drain(self, searcher: ChunkSearcher) -> list[Trial]:
        """Run to the end, one trial at a time."""
        configs: list[Trial] = []
        for number in range(1000):
            config = searcher.suggest(f"drained{number}")
            if config == Searcher.FINISHED:
                return configs
            configs.append(_offered(config))
            self.finish(searcher, f"drained{number}", config)
        raise AssertionError("it never ended")


class Stubborn(RandomSearch):
    """Asks for half of its points again and again: of a block they answer what they have not answered before."""

    def ask(self) -> Points:
        points = super().ask()
        points[::2, 0] = np.linspace(0.1, 0.9, len(points[::2]))
        points[::2, 1] = 1 - points[::2, 0]
        return points


@pytest.fixture
def tune(small_search: MakeSearch, answered: Answered) -> Tune:
    return Tune(small_search, answered)


def _offered(config: Any) -> Trial:
    assert isinstance(config, dict), f"no trial is offered: {config}"
    return config


def _chunk(config: Any) -> tuple[str, int, int]:
    return _offered(config)["search"], config["round"], config["chunk"]


def _told(searcher: ChunkSearcher) -> dict[str, Any]:
    return {name: search.told for name, search in searcher.searches.items()}


def test_no_chunk_of_the_next_round_before_the_last_answer_is_in(tune: Tune) -> None:
    searcher = tune.searcher(actors=3)
    first, second = _offered(searcher.suggest("t0")), _offered(searcher.suggest("t1"))
    # The base and the two experts, on all shots.
    assert (first["points"], second["points"]) == ([[0, 0], [1, 0]], [[0, 1]])
    assert (first["samples"], second["samples"]) == ([[0, 1, 2, 3]] * 2, [[0, 1, 2, 3]])
    assert searcher.suggest("t2") is None
    tune.finish(searcher, "t1", second)
    assert searcher.suggest("t2") is None
    tune.finish(searcher, "t0", first)
    third = _offered(searcher.suggest("t2"))
    assert (third["round"], third["stage"], third["generation"], third["chunk"]) == (1, "population", 0, 0)


def test_it_asks_for_no_more_actors_than_there_are(tune: Tune) -> None:
    searcher = tune.searcher("a", "b", actors=2)
    first = _offered(searcher.suggest("t0"))
    assert searcher.suggest("t1") is not None
    assert searcher.suggest("t2") is None
    # One actor is free: one trial, until Tune has handed the actor over.
    searcher.on_trial_result("t0", tune.result(first))
    assert searcher.suggest("t2") is not None
    assert searcher.suggest("t3") is None
    searcher.on_trial_complete("t0", tune.result(first))
    assert searcher.suggest("t3") is None
    # An actor that was lost may be replaced.
    searcher.on_trial_complete("t1", error=True)
    assert searcher.suggest("t3") is not None
    assert searcher.suggest("t4") is None


def test_another_search_fills_the_barrier(tune: Tune) -> None:
    searcher = tune.searcher("a", "b", actors=4)
    chunks = [_chunk(searcher.suggest(f"t{number}")) for number in range(4)]
    assert chunks == [("a", 0, 0), ("a", 0, 1), ("b", 0, 0), ("b", 0, 1)]


def test_it_ends_after_the_last_round_of_the_last_search(tune: Tune) -> None:
    searcher = tune.searcher("a", "b")
    configs = tune.drain(searcher)
    assert searcher.finished
    for name, search in searcher.searches.items():
        own = [config for config in configs if config["search"] == name]
        assert search.outcome is not None
        assert [(one["round"], one["chunk"]) for one in searcher.records[name]] == [_chunk(one)[1:] for one in own]
        assert list(dict.fromkeys(one["stage"] for one in own)) == ["known", "population", "final", "test"]
        # A round has as many chunks as it may, or one for each of its candidates.
        assert {one["round"] for one in own} == set(range(len(search.told)))
        for number, (_, measured) in enumerate(search.told):
            assert sum(one["round"] == number for one in own) == min(2, len(measured))


@pytest.mark.parametrize("block", [None, 1, 3])
def test_chunks_change_nothing_about_the_search(
    tune: Tune, block: int | None, small_search: MakeSearch, answered: Answered
) -> None:
    searcher = tune.searcher("a", chunks=3, block=block)
    tune.drain(searcher)
    alone = small_search(0, block=block)
    while alone.pending is not None:
        alone.tell([np.array(one) for one in answered(alone.pending.points.tolist(), alone.pending.samples)])
    assert _told(searcher) == {"a": alone.told}


def test_a_round_of_fewer_candidates_has_fewer_chunks(tune: Tune) -> None:
    searcher = tune.searcher(chunks=5, actors=5)
    configs = [_offered(searcher.suggest(f"t{number}")) for number in range(3)]
    assert [config["points"] for config in configs] == [[[0, 0]], [[1, 0]], [[0, 1]]]
    assert searcher.suggest("t3") is None
    for number, config in enumerate(configs):
        tune.finish(searcher, f"t{number}", config)
    assert len(searcher.searches["exam"].told) == 1
    assert _chunk(searcher.suggest("t3")) == ("exam", 1, 0)


def test_candidates_that_answer_different_samples_keep_their_own(small_search: MakeSearch) -> None:
    def fickle(points: Sequence[Sequence[float]], samples: Sequence[Sequence[int]]) -> list[list[list[float]]]:
        # Pairs of shots like one expert and the other in turn, and so do the first comparisons of two generations.
        return [
            [[float(point[number % 4 < 2] > 0.5), point[number % 4 < 2]] for number in numbers]
            for point, numbers in zip(points, samples, strict=True)
        ]

    def make() -> Search:
        return Search(Space(("one", "two")), Stubborn, Objective(), Plan(shots=7, generations=2, block=2, finalists=8))

    searcher = ChunkSearcher({"exam": make()}, chunks=3)
    configs = Tune(small_search, fickle).drain(searcher)
    assert any(len(set(map(len, config["samples"]))) > 1 for config in configs)
    alone = make()
    while alone.pending is not None:
        alone.tell([np.array(one) for one in fickle(alone.pending.points.tolist(), alone.pending.samples)])
    assert _told(searcher) == {"exam": alone.told}


def test_a_race_gets_shorter_from_block_to_block(tune: Tune) -> None:
    searcher = tune.searcher(block=1)
    configs = [config for config in tune.drain(searcher) if config["stage"] == "population"]
    first = [config for config in configs if config["generation"] == 0]
    rounds = list(dict.fromkeys(config["round"] for config in first))
    sizes = [sum(len(one["points"]) for one in first if one["round"] == number) for number in rounds]
    assert sizes[0] > sizes[1] > 0
    assert [config["samples"][0] for config in first if config["chunk"] == 0] == [[0], [1], [2, 3]]


def test_a_failed_chunk_is_offered_again_and_never_scored(tune: Tune) -> None:
    searcher = tune.searcher()
    first, second = searcher.suggest("t0"), searcher.suggest("t1")
    searcher.on_trial_complete("t0", error=True)
    tune.finish(searcher, "t1", second)
    assert not searcher.searches["exam"].told
    assert searcher.suggest("t2") == first
    assert searcher.suggest("t3") is None


def test_answers_that_come_twice_or_late_are_ignored(tune: Tune) -> None:
    searcher = tune.searcher()
    first, second = searcher.suggest("t0"), searcher.suggest("t1")
    for _ in range(2):
        tune.finish(searcher, "t0", first)
    tune.finish(searcher, "t1", second)
    tune.finish(searcher, "t9", first)
    assert len(searcher.searches["exam"].told) == 1
    assert [record["chunk"] for record in searcher.records["exam"]] == [0, 1]


def _in_a_race(config: Trial) -> bool:
    """Whether a trial is the second chunk of a later block of the second generation, whose first shot is number 1."""
    return bool(config["generation"] == 1 and config["chunk"] == 1 and config["samples"][0] != [1])


@pytest.mark.parametrize("begun", [0, 1, 2, 3, 5, "race"])
def test_restored_it_continues_identically_and_repeats_what_was_under_way(
    begun: int | str, tune: Tune, tmp_path: Path
) -> None:
    searcher = tune.searcher("a", "b", block=1)
    for done in range(1000):
        lost = _offered(searcher.suggest(f"t{done}"))
        if done == begun or (begun == "race" and _in_a_race(lost)):
            break
        tune.finish(searcher, f"t{done}", lost)
    searcher.save(str(tmp_path / "state.json"))
    json.loads((tmp_path / "state.json").read_text())
    copy = tune.searcher("a", "b", block=1)
    copy.restore(str(tmp_path / "state.json"))
    configs = tune.drain(copy)
    assert configs[0] == lost
    whole = tune.searcher("a", "b", block=1)
    assert len(configs) == len(tune.drain(whole)) - done
    assert _told(copy) == _told(whole)
    assert copy.records == whole.records


@pytest.mark.parametrize("bad", [float("nan"), None])
def test_of_answers_that_the_search_refuses_nothing_is_kept(bad: float | None, tune: Tune, tmp_path: Path) -> None:
    searcher = tune.searcher()
    first, last = _offered(searcher.suggest("t0")), _offered(searcher.suggest("t1"))
    tune.finish(searcher, "t0", first)
    result = tune.result(last)
    if bad is None:
        result["measured"].pop()
    else:
        result["measured"][0][0][1] = bad
    with pytest.raises((RewardError, ValueError)):
        searcher.on_trial_result("t1", result)
    assert [record["chunk"] for record in searcher.records["exam"]] == [0]
    searcher.save(str(tmp_path / "state.json"))
    resumed = tune.searcher()
    resumed.restore(str(tmp_path / "state.json"))
    assert resumed.suggest("t2") == last
    assert _told(resumed) == {"exam": []}


@pytest.mark.parametrize(
    "measured",
    [
        [[7, [[[1.0, 0.0]] * 4]]],
        [["0", []]],
        [[0, [[[1.0, 0.0]] * 3] * 2]],
        [[0, [[[1.0, float("nan")]] * 4] * 2]],
        [5],
    ],
    ids=["no chunk", "no number", "other samples", "not finite", "no pair"],
)
def test_answers_of_an_open_round_are_checked_when_they_are_restored(measured: Any, tune: Tune, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    tune.searcher().save(str(path))
    state = json.loads(path.read_text())
    state["measured"]["exam"] = measured
    path.write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"state\.json is no state of this search"):
        tune.searcher().restore(str(path))


def test_the_state_of_another_search_is_refused(tune: Tune, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    done = tune.searcher("a")
    tune.drain(done)
    done.save(str(path))
    others = [tune.searcher("b"), tune.searcher("a", "b"), tune.searcher("a", chunks=3)]
    others += [tune.searcher("a", **plan) for plan in ({"generations": 4}, {"shots": 5}, {"block": 1})]
    for other in others:
        with pytest.raises(CheckpointError, match=r"state\.json is no state of this search"):
            other.restore(str(path))
        assert not other.records["a" if "a" in other.records else "b"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="no state of this search"):
        tune.searcher("a").restore(str(path))
