"""``zfleet search``: what it passes on, and the winner that it prints."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zfleet.config.load import load_spec
from zfleet.config.search import SearchSpec
from zfleet.evaluate.statistics.estimate import Estimate
from zfleet.search.plan import Generation
from zfleet_cli.main import app
from zfleet_jobs.search.run import SearchResult

MIX = Path(__file__).parents[3] / "jobs" / "specs" / "lab-mix.yaml"
RESULT = SearchResult(
    reference="mix/2",
    alphas={"reverse/1": 0.25, "sort/1": {"q_proj": 0.75}},
    accuracy=Estimate(0.8, 0.74, 0.85),
    over_base=Estimate(0.4, 0.31, 0.49),
    over_best_single=Estimate(0.1, -0.02, 0.22),
    best_single="sort/1",
    test=200,
    chosen_by="selection",
    on_shots=0.9,
    whole_test=None,
    z_digest="d" * 64,
    shots=10,
    selection=20,
    evaluations=1234,
    left_out=0,
    trials=16,
    actors=("a", "b"),
    batch_rows=(160, 96),
    history=(Generation(0.9, 0.5, 330),),
    seconds=12.0,
)


def search(monkeypatch: pytest.MonkeyPatch, result: SearchResult, *options: str) -> tuple[str, SearchSpec, str | None]:
    """What the command prints if its search finds this result, and what the search was given."""
    given: list[tuple[SearchSpec, str | None]] = []

    def run_search(spec: SearchSpec, address: str | None) -> SearchResult:
        given.append((spec, address))
        return result

    monkeypatch.setattr("zfleet_jobs.search.run.run_search", run_search)
    # Wide enough that no cell is folded.
    monkeypatch.setenv("COLUMNS", "240")
    done = CliRunner().invoke(app, ["search", str(MIX), *options])
    assert done.exit_code == 0, done.output
    ((spec, address),) = given
    return done.stdout, spec, address


def test_a_search_passes_its_spec_on_and_prints_the_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    printed, spec, address = search(monkeypatch, RESULT, "--address", "auto", "--set", "seed=4")
    for cell in (
        "mix/2",
        "0.25",
        "20 fresh prompts",
        "0.800 [0.740, 0.850]",
        "0.400 [0.310, 0.490]",
        "0.100 [-0.020, 0.220] (sort/1)",
        "0.900 of 10, optimistic",
        "1234",
    ):
        assert cell in printed
    assert (spec, address) == (load_spec(MIX, SearchSpec, ["seed=4"]), "auto")


def test_json_has_the_whole_result(monkeypatch: pytest.MonkeyPatch) -> None:
    printed, _, _ = search(monkeypatch, RESULT, "--json")
    assert json.loads(printed) == [json.loads(json.dumps(asdict(RESULT)))]


def test_the_papers_code_is_reported_as_the_paper_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    papers = replace(RESULT, chosen_by="method", selection=0, whole_test=0.805)
    printed, _, _ = search(monkeypatch, papers)
    assert "0.800 [0.740, 0.850] (0.805 with the shots)" in printed
    assert "its own best, as the paper" in printed


def test_without_held_out_prompts_nothing_is_said_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    untested = replace(RESULT, accuracy=None, over_base=None, over_best_single=None, test=0)
    printed, _, _ = search(monkeypatch, untested)
    assert printed.count("not asked") == 3
