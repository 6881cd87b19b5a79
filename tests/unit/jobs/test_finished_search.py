"""What a finished search leaves: used again where the stored answers lead to it, and nowhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from zfleet.search.search import Search
from zfleet_jobs.search.finished import FINISHED, read_finished, write_finished
from zfleet_jobs.search.searcher import RECORD, ChunkSearcher

MakeSearch = Callable[..., Search]
Answered = Callable[[Sequence[Sequence[float]], Sequence[Sequence[int]]], list[list[list[float]]]]


@pytest.fixture
def searcher(small_search: MakeSearch) -> Callable[..., ChunkSearcher]:
    """``searcher(seed, **plan)``: two searches at their start."""

    def make(seed: int = 0, **plan: int) -> ChunkSearcher:
        return ChunkSearcher({name: small_search(seed + at, block=2, **plan) for at, name in enumerate("ab")}, chunks=2)

    return make


@pytest.fixture
def run(searcher: Callable[..., ChunkSearcher], answered: Answered) -> Callable[[], ChunkSearcher]:
    """``run()``: both at their end."""

    def to_the_end() -> ChunkSearcher:
        running = searcher()
        number = 0
        while isinstance(config := running.suggest(f"t{number}"), dict):
            measured = answered(config["points"], config["samples"])
            running.on_trial_result(f"t{number}", dict.fromkeys(RECORD, 0) | config | {"measured": measured})
            running.on_trial_complete(f"t{number}")
            number += 1
        return running

    return to_the_end


def test_a_finished_search_is_read_back_whole(
    searcher: Callable[..., ChunkSearcher], run: Callable[[], ChunkSearcher], tmp_path: Path
) -> None:
    done = run()
    write_finished(done, tmp_path)
    again = read_finished(searcher(), tmp_path)
    assert again is not None
    assert again.finished
    assert again.records == done.records
    for name, search in done.searches.items():
        same = again.searches[name]
        assert same.told == search.told
        assert same.outcome is not None
        assert search.outcome is not None
        assert same.outcome.winner.tolist() == search.outcome.winner.tolist()
        assert (same.history, same.evaluations) == (search.history, search.evaluations)


def test_where_none_finished_there_is_none(
    searcher: Callable[..., ChunkSearcher], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not read_finished(searcher(), tmp_path)
    assert not caplog.records


def _other_points(state: dict[str, Any]) -> None:
    state["told"]["b"][2][0] = "0" * 64


def _other_answer(state: dict[str, Any]) -> None:
    # A candidate of the first population becomes right: the next one is drawn around another mean.
    values = state["told"]["b"][1][1]
    worst = min(values, key=lambda rows: rows[0][1])
    worst[0] = [1e9, 0.0]


def _answer_that_is_no_number(state: dict[str, Any]) -> None:
    state["told"]["a"][0][1][0][0][0] = math.nan


def _lost_round(state: dict[str, Any]) -> None:
    state["told"]["a"].pop()


def _lost_metric(state: dict[str, Any]) -> None:
    state["told"]["a"][-1][1][0][0].pop()


def _no_records(state: dict[str, Any]) -> None:
    state["records"] = ["a", "b"]


def _half_a_record(state: dict[str, Any]) -> None:
    del state["records"]["a"][0]["actor"]


@pytest.mark.parametrize(
    "damage",
    [
        _other_points,
        _other_answer,
        _answer_that_is_no_number,
        _lost_round,
        _lost_metric,
        _no_records,
        _half_a_record,
    ],
)
def test_an_outcome_that_does_not_follow_from_its_answers_is_refused(
    damage: Callable[[dict[str, Any]], None],
    searcher: Callable[..., ChunkSearcher],
    run: Callable[[], ChunkSearcher],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_finished(run(), tmp_path)
    state = json.loads((tmp_path / FINISHED).read_text())
    damage(state)
    (tmp_path / FINISHED).write_text(json.dumps(state))
    untouched = searcher()
    assert not read_finished(untouched, tmp_path)
    assert "is not used and runs again" in caplog.text
    assert not untouched.records["a"]
    assert not untouched.finished


def test_half_a_file_an_unfinished_search_and_another_one_are_refused(
    searcher: Callable[..., ChunkSearcher], run: Callable[[], ChunkSearcher], tmp_path: Path
) -> None:
    write_finished(searcher(), tmp_path)
    assert not read_finished(searcher(), tmp_path)
    write_finished(run(), tmp_path)
    assert not read_finished(searcher(seed=5), tmp_path)
    assert not read_finished(searcher(generations=4), tmp_path)
    assert not read_finished(searcher(selection=2), tmp_path)
    path = tmp_path / FINISHED
    path.write_bytes(path.read_bytes()[:200])
    assert not read_finished(searcher(), tmp_path)
