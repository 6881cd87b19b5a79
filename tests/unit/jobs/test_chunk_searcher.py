"""The searcher by direct calls, as Ray Tune makes them: the barrier, actors handed over, failures, restore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.search import Searcher

from zfleet.errors import CheckpointError
from zfleet.search.cross_entropy import CrossEntropy
from zfleet_jobs.search.searcher import ChunkSearcher


def _searcher(*names: str, generations: int = 3, chunks: int = 2, actors: int = 2) -> ChunkSearcher:
    searches = {name: CrossEntropy(2, population=7, seed=seed) for seed, name in enumerate(names or ("exam",))}
    return ChunkSearcher(searches, generations=generations, chunks=chunks, actors=actors)


def _result(config: dict[str, Any]) -> dict[str, Any]:
    """What the trainable reports; the score is a function of the point."""
    scores = [[float(point[0] > 0.5), -sum((np.array(point) - 0.7) ** 2)] for point in config["points"]]
    extra = {"actor": "a", "batch_rows": 1, "distinct_z": 1, "seconds": 0.0, "opened_seconds": 0.0}
    return {key: config[key] for key in ("search", "generation", "chunk")} | {"scores": scores} | extra


def _finish(searcher: ChunkSearcher, trial: str, config: Any) -> None:
    """A trial's result, and its end."""
    searcher.on_trial_result(trial, _result(config))
    searcher.on_trial_complete(trial, _result(config))


def _drain(searcher: ChunkSearcher, begin: int = 0) -> list[dict[str, Any]]:
    """Run to the end, one trial at a time."""
    configs: list[dict[str, Any]] = []
    for number in range(begin, 1000):
        config = searcher.suggest(f"t{number}")
        if config == Searcher.FINISHED:
            return configs
        assert isinstance(config, dict)
        configs.append(config)
        _finish(searcher, f"t{number}", config)
    raise AssertionError("it never ended")


def test_no_chunk_of_the_next_generation_before_the_last_score_is_in() -> None:
    searcher = _searcher(actors=3)
    first, second = searcher.suggest("t0"), searcher.suggest("t1")
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert [len(config["points"]) for config in (first, second)] == [4, 3]
    assert first["points"][:3] == [[0, 0], [1, 0], [0, 1]]
    assert searcher.suggest("t2") is None
    _finish(searcher, "t1", second)
    assert searcher.suggest("t2") is None
    _finish(searcher, "t0", first)
    third = searcher.suggest("t2")
    assert isinstance(third, dict)
    assert (third["generation"], third["chunk"]) == (1, 0)


def test_it_asks_for_no_more_actors_than_there_are() -> None:
    searcher = _searcher("a", "b", actors=2)
    first = searcher.suggest("t0")
    assert searcher.suggest("t1") is not None
    assert searcher.suggest("t2") is None
    # One actor is free: one trial, until Tune has handed the actor over.
    assert isinstance(first, dict)
    searcher.on_trial_result("t0", _result(first))
    assert searcher.suggest("t2") is not None
    assert searcher.suggest("t3") is None
    searcher.on_trial_complete("t0", _result(first))
    assert searcher.suggest("t3") is None
    # An actor that was lost may be replaced.
    searcher.on_trial_complete("t1", error=True)
    assert searcher.suggest("t3") is not None
    assert searcher.suggest("t4") is None


def test_another_search_fills_the_barrier() -> None:
    searcher = _searcher("a", "b", actors=4)
    configs = [searcher.suggest(f"t{number}") for number in range(4)]
    assert [(c["search"], c["chunk"]) for c in configs if isinstance(c, dict)] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
    ]


def test_it_ends_after_the_last_generation_of_the_last_search() -> None:
    searcher = _searcher("a", "b")
    assert len(_drain(searcher)) == 2 * 3 * 2
    assert {name: search.generation for name, search in searcher.searches.items()} == {"a": 3, "b": 3}
    assert {name: len(records) for name, records in searcher.records.items()} == {"a": 6, "b": 6}


def test_chunks_change_nothing_about_the_search() -> None:
    searcher = _searcher("a", chunks=3)
    _drain(searcher)
    alone = CrossEntropy(2, population=7, seed=0)
    for _ in range(3):
        points = alone.ask().tolist()
        alone.tell(_result({"search": "", "generation": 0, "chunk": 0, "points": points})["scores"])
    assert searcher.searches["a"].to_json() == alone.to_json()


def test_a_failed_chunk_is_offered_again_and_never_scored() -> None:
    searcher = _searcher()
    first, second = searcher.suggest("t0"), searcher.suggest("t1")
    searcher.on_trial_complete("t0", error=True)
    _finish(searcher, "t1", second)
    assert searcher.searches["exam"].generation == 0
    assert searcher.suggest("t2") == first
    assert searcher.suggest("t3") is None


def test_scores_that_come_twice_or_late_are_ignored() -> None:
    searcher = _searcher()
    first, second = searcher.suggest("t0"), searcher.suggest("t1")
    for _ in range(2):
        _finish(searcher, "t0", first)
    _finish(searcher, "t1", second)
    _finish(searcher, "t9", first)
    assert searcher.searches["exam"].generation == 1
    assert [record["chunk"] for record in searcher.records["exam"]] == [0, 1]


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_restored_it_continues_identically_and_repeats_what_was_under_way(done: int, tmp_path: Path) -> None:
    searcher = _searcher("a", "b")
    for number in range(done):
        config = searcher.suggest(f"t{number}")
        _finish(searcher, f"t{number}", config)
    lost = searcher.suggest("lost")
    searcher.save(str(tmp_path / "state.json"))
    json.loads((tmp_path / "state.json").read_text())
    copy = _searcher("a", "b")
    copy.restore(str(tmp_path / "state.json"))
    configs = _drain(copy)
    assert configs[0] == lost
    assert len(configs) == 12 - done
    whole = _searcher("a", "b")
    _drain(whole)
    for name in ("a", "b"):
        assert copy.searches[name].to_json() == whole.searches[name].to_json()


def test_the_state_of_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    _searcher("a").save(str(path))
    for other in (_searcher("b"), _searcher("a", generations=4), _searcher("a", chunks=3)):
        with pytest.raises(CheckpointError, match=r"state\.json is no state of this search"):
            other.restore(str(path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="no state of this search"):
        _searcher("a").restore(str(path))
