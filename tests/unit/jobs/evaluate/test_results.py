"""A finished run: its table, its report, its flips and its run in MLflow, all from the files of its folder."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from zfleet.errors import SamplesError, SpecError
from zfleet.evaluate.cells import CellKey
from zfleet.evaluate.statistics.single import paired
from zfleet_jobs.evaluate.cell_files import FOLDER
from zfleet_jobs.evaluate.flips import compare_runs, compare_ways
from zfleet_jobs.evaluate.results import ABOUT_FILE, TRACES, Results, read_results
from zfleet_jobs.evaluate.tracking import metrics_of, track
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.testing.evaluations import EXPERTS, KINDS, WAYS, FakeEvaluation, made_up_task, prepare_fake
from zfleet_registry import ExpertRegistry

_KINDS = {"up": ("up",), "mixed": KINDS, "same": ("same",)}
TASKS = {name: made_up_task(name, kinds, test_size=30) for name, kinds in _KINDS.items()}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> FakeEvaluation:
    """An evaluation with every kind of way, two numbers of shots, and answers that are not all as expected."""
    found = prepare_fake(tmp_path_factory.mktemp("cache"), TASKS, EXPERTS, **WAYS, shots=(3, 6))
    found.noise = 0.15
    for name in TASKS:
        for shots in (3, 6):
            for draw in (0, 1):
                mixture = {"up/1": (0.5, 0.1 * shots), "down/2": (0.3, float(draw))}
                found.found[CellKey(name, "cem", shots, draw, 0)] = mixture
    return found


@pytest.fixture(scope="module")
def run(stage: FakeEvaluation, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Its folder."""
    storage = Storage.at(str(tmp_path_factory.mktemp("run")))
    stage.write(storage)
    return storage


@pytest.fixture(scope="module")
def results(run: Storage) -> Results:
    return read_results(run)


def test_the_table_is_in_the_order_of_the_spec(results: Results) -> None:
    assert results.matrix.tasks == ["up", "mixed", "same"]
    ways = [entry.way for entry in results.matrix.of_task("mixed")]
    assert ways == list(results.about.ways)
    assert results.matrix.against == "best-single"
    assert len(results.traces) == 12


def test_the_page_has_a_section_for_all_that_the_run_has_data_for(results: Results) -> None:
    report = results.report()
    pictures = {name for name in report if name.endswith(".png")}
    assert {name.removesuffix(".png") for name in pictures} == {
        "gains",
        "shots",
        "regret",
        "cost",
        "alphas",
        "layers",
        "parallel",
        "importance",
        "convergence",
        "reliability",
    }
    assert all(report[name].startswith(b"\x89PNG") for name in pictures)
    page = report["report.html"].decode()
    assert page.count("<img ") == len(pictures)
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page needs no other file"
    for heading in ("What is shown", "The matrix", "Regret", "Searches", "Dispatchers", "Where the time went"):
        assert f"<h2>{heading}" in page
    assert "best-single" in page


def test_a_section_without_data_is_absent(tmp_path: Path) -> None:
    bare = prepare_fake(tmp_path / "cache", {"up": TASKS["up"]}, EXPERTS)
    bare.write(Storage.at(str(tmp_path / "run")))
    report = read_results(Storage.at(str(tmp_path / "run"))).report()
    assert set(report) == {"gains.png", "regret.png", "cost.png", "report.html"}
    page = report["report.html"].decode()
    for heading in ("Searches", "Dispatchers", "Alphas", "Shots"):
        assert f"<h2>{heading}" not in page


def test_a_page_says_what_is_shown_and_what_is_not(results: Results) -> None:
    page = results.report()["report.html"].decode()
    shown, harm = page.split("<h2>What is not shown")
    assert re.search(r"up: \S+( \(\d+ shots\))? answers [\d.]+%, the base [\d.]+%: \+[\d.]+ points, 95 % \+", shown)
    assert re.search(r"up/1 does harm on tasks that it was not trained on: -[\d.]+ points", harm)
    assert re.search(r"same: shown to be worse than the base: .*down/2", harm)


def test_two_ways_are_compared_prompt_by_prompt(results: Results) -> None:
    changes = compare_ways(results, "up/1", "base")
    assert [one.task for one in changes] == ["up", "mixed", "same"]
    up = changes[0]
    cells = {cell.key: cell for cell in results.cells}
    right = [(cells[CellKey("up", way)].rewards > 0).tolist() for way in ("up/1", "base")]
    assert up.comparison.difference == paired(right[0], right[1])
    assert up.gained - up.lost == sum(right[0]) - sum(right[1])
    first = up.flipped[0]
    assert (first.first, first.second, first.first_answer, first.second_answer) == (1.0, 0.0, "U", "wron")
    assert first.prompt.startswith("up test up")


def test_a_way_with_draws_is_right_in_parts(results: Results) -> None:
    (_, mixed, _) = compare_ways(results, "cem", "uniform")
    assert {one.first for one in mixed.flipped} <= {0.0, 0.5, 1.0}
    assert mixed.gained + mixed.lost == len(mixed.flipped)


def test_a_way_that_there_is_not_is_refused_with_those_that_there_are(results: Results) -> None:
    with pytest.raises(SpecError, match="has no way named 'tpe'") as caught:
        compare_ways(results, "tpe", "base")
    assert "best-single, cem, asks-base" in caught.value.remedy


def test_two_runs_are_compared_way_by_way(stage: FakeEvaluation, results: Results, tmp_path: Path) -> None:
    other = replace(stage, storage=Storage.at(str(tmp_path / "cache")), work=[], progress=[], noise=0.4)
    other.write(Storage.at(str(tmp_path / "run")))
    changes = compare_runs(results, read_results(Storage.at(str(tmp_path / "run"))))
    assert {(one.first.partition(",")[0], one.task) for one in changes} == {
        (way, task) for way in results.about.ways for task in TASKS
    }
    assert any(one.flipped for one in changes)
    same = compare_runs(results, results)
    assert all((one.comparison.difference.mean, one.flipped) == (0.0, ()) for one in same)


def test_runs_without_anything_in_common_are_refused(results: Results, tmp_path: Path) -> None:
    other = prepare_fake(tmp_path / "cache", {"down": made_up_task("down", ("down",))}, EXPERTS)
    other.write(Storage.at(str(tmp_path / "run")))
    with pytest.raises(SpecError, match="no prompt in common"):
        compare_runs(results, read_results(Storage.at(str(tmp_path / "run"))))


def test_a_folder_that_is_no_finished_run_is_refused(stage: FakeEvaluation, tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="it is no finished run"):
        read_results(Storage.at(str(tmp_path)))
    run = Storage.at(str(tmp_path / "run"))
    stage.write(run)
    trace = next((tmp_path / "run" / TRACES).iterdir())
    trace.write_bytes(b"{}")
    with pytest.raises(SamplesError, match=f"a file in .*{TRACES} is damaged"):
        read_results(run)


def test_mlflow_has_the_metrics_with_intervals_and_the_report(results: Results, tmp_path: Path) -> None:
    registry = ExpertRegistry(None, tmp_path / "registry")
    report = results.report()
    run = track(registry, results, report)
    logged = registry.metrics(run)
    expected = metrics_of(results)
    assert logged == pytest.approx(expected)
    names = {f"mixed.cem.6.accuracy{bound}" for bound in ("", ".low", ".high")}
    assert {*names, "up.up_1.off_task", "mixed.asks-expert.seconds", "up.uniform.over_base.p_corrected"} <= set(logged)
    files = {path.name for path in (tmp_path / "registry").rglob("report/*")}
    assert files == {*report, ABOUT_FILE}
    # Logged again, it is the same run.
    assert track(registry, results, report) == run


def test_the_run_folder_of_the_test_is_whole(run: Storage) -> None:
    about = json.loads((Path(run.place) / ABOUT_FILE).read_text())
    cells = [cell for cell in (Path(run.place) / FOLDER).iterdir() if cell.suffix == ".parquet"]
    assert len(cells) == len(about["tasks"]) * (len(about["ways"]) - 2 + 2 * len(about["shots"]) * len(about["draws"]))
