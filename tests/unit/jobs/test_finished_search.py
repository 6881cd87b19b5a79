"""What a finished search leaves: used again where the stored scores lead to it, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zfleet.search.cross_entropy import CrossEntropy
from zfleet_jobs.search.finished import FINISHED, read_finished, write_finished
from zfleet_jobs.search.searcher import ChunkSearcher


def _searcher(seed: int = 0, generations: int = 2) -> ChunkSearcher:
    searches = {name: CrossEntropy(2, population=5, seed=seed + k) for k, name in enumerate("ab")}
    return ChunkSearcher(searches, generations=generations, chunks=2)


def _run(searcher: ChunkSearcher) -> ChunkSearcher:
    extra = {"actor": "a", "batch_rows": 1, "distinct_z": 1, "seconds": 0.0, "opened_seconds": 0.0}
    number = 0
    while isinstance(config := searcher.suggest(f"t{number}"), dict):
        scores = [[float(point[0] > 0.5), -float(point[1])] for point in config["points"]]
        searcher.on_trial_result(f"t{number}", {**config, "scores": scores, **extra})
        searcher.on_trial_complete(f"t{number}")
        number += 1
    return searcher


def test_a_finished_search_is_read_back_whole(tmp_path: Path) -> None:
    done = _run(_searcher())
    write_finished(done, tmp_path)
    again = _searcher()
    assert read_finished(again, tmp_path)
    assert again.records == done.records
    assert {n: s.to_json() for n, s in again.searches.items()} == {n: s.to_json() for n, s in done.searches.items()}


def test_where_none_finished_there_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not read_finished(_searcher(), tmp_path)
    assert not caplog.records


def _other_best(state: dict[str, Any]) -> None:
    state["searches"]["b"]["best"][0] = [0.25, 0.75]


def _other_score(state: dict[str, Any]) -> None:
    state["records"]["b"][0]["scores"][0] = [2.0, 0.0]


def _lost_trial(state: dict[str, Any]) -> None:
    state["records"]["a"].pop()


def _no_records(state: dict[str, Any]) -> None:
    state["records"] = ["a", "b"]


@pytest.mark.parametrize("damage", [_other_best, _other_score, _lost_trial, _no_records])
def test_an_outcome_that_does_not_follow_from_its_scores_is_refused(
    damage: Callable[[dict[str, Any]], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_finished(_run(_searcher()), tmp_path)
    state = json.loads((tmp_path / FINISHED).read_text())
    damage(state)
    (tmp_path / FINISHED).write_text(json.dumps(state))
    untouched = _searcher()
    assert not read_finished(untouched, tmp_path)
    assert "is not used and runs again" in caplog.text
    assert not untouched.records["a"]
    assert not untouched.finished


def test_half_a_file_an_unfinished_search_and_another_one_are_refused(tmp_path: Path) -> None:
    write_finished(_searcher(), tmp_path)
    assert not read_finished(_searcher(), tmp_path)
    write_finished(_run(_searcher()), tmp_path)
    assert not read_finished(_searcher(seed=5), tmp_path)
    assert not read_finished(_searcher(generations=3), tmp_path)
    path = tmp_path / FINISHED
    path.write_bytes(path.read_bytes()[:200])
    assert not read_finished(_searcher(), tmp_path)
