"""``zfleet evaluate`` without a cluster: what a dry run finds, and what is printed of a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from rich.cells import cell_len
from typer.testing import CliRunner

from zfleet.evaluate.cells import CellKey
from zfleet_cli.commands import evaluate
from zfleet_cli.main import app
from zfleet_jobs.evaluate.results import read_results
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.testing.evaluations import EXPERTS, KINDS, WAYS, made_up_task, prepare_fake

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "jobs" / "specs" / "lab-evaluate.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a finished run."""
    task = made_up_task("mixed-requests-of-every-kind", KINDS, test_size=30)
    stage = prepare_fake(tmp_path_factory.mktemp("cache"), {task.name: task}, EXPERTS, **WAYS)
    stage.noise = 0.2
    stage.found |= {CellKey(task.name, "cem", 3, draw, 0): {"up/1": 0.5, "down/2": 0.5} for draw in (0, 1)}
    folder = str(tmp_path_factory.mktemp("run"))
    stage.write(Storage.at(folder))
    return folder


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_dry_run_counts_cells_and_answers_and_prints_the_spec() -> None:
    code, printed, said = invoke(str(EXAMPLE), "--dry-run", "--set", "eval_samples=50")
    assert code == 0
    assert yaml.safe_load(printed)["eval_samples"] == 50
    # Of each of six tasks: base, prompt, 3 experts, uniform, 2 dispatchers and the oracle once; best single and three
    # searches with 2 numbers of shots and 3 draws.
    cells = 6 * (9 + 4 * 6)
    assert f"cells: {cells}\n" in said
    assert f"answers: {cells * 50:,}\n" in said
    assert f"computed: {6 * (6 + 3 * 6) * 50:,}\n" in said
    assert "first passes: 600\n" in said


def test_a_dry_run_for_programs_is_one_object() -> None:
    code, printed, _ = invoke(str(EXAMPLE), "--dry-run", "--json")
    assert code == 0
    assert json.loads(printed)["sizes"]["cells"] == 198


def test_no_shots_are_refused() -> None:
    code, _, said = invoke(str(EXAMPLE), "--dry-run", "--set", "shots=[0]")
    assert code == 1
    assert "shots.0 is 0" in said


def test_a_shot_in_another_tasks_test_is_refused_with_the_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {place}", "answer": "a"} for place in range(60)]
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = {
        name: {"jsonl": str(tmp_path / f"{name}.jsonl"), "template": "{prompt}", "test_fraction": fraction}
        for name, fraction in (("one", 0.2), ("two", 0.8))
    }
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({"kind": "evaluate", "name": "e", "tasks": tasks, "experts": ["a"], "shots": [5]}))
    code, _, said = invoke(str(spec), "--dry-run")
    assert code == 1
    assert "shots, selection and test must be different prompts" in said
    assert "is in the shots of one" in said
    assert "and in the test of two" in said
    assert "remedy: remove these rows" in said


def test_nothing_to_do_is_refused() -> None:
    code, _, said = invoke()
    assert code == 1
    assert "neither a spec file nor --compare A B is given" in said


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(
    run: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    evaluate._print(read_results(Storage.at(run)))
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= width
    # Of all ways but the base and the oracle, on one task.
    assert "correction for 8 comparisons (Holm)" in " ".join(printed.split())
    for name in ("cem (3)", "asks-expert", "oracle", "up/1"):
        assert name in printed


def test_flips_of_two_ways_are_printed(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, _ = invoke(run, "--compare", "up/1", "base")
    assert code == 0
    assert max(map(cell_len, printed.splitlines()[1:])) <= 80
    assert "up/1 less base" in printed
    assert "points on 30 prompts" in " ".join(printed.split())
    assert "right: U" in " ".join(printed.split())
    code, listed, _ = invoke(run, "--compare", "up/1", "base", "--json")
    assert code == 0
    (changes,) = json.loads(listed)
    assert changes["gained"] + changes["lost"] == len(changes["flipped"])


def test_flips_of_two_runs_are_printed(run: str) -> None:
    code, printed, _ = invoke("--compare", run, run)
    assert code == 0
    assert "0 gained, 0 lost" in " ".join(printed.split())


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    code, _, said = invoke(str(tmp_path), "--compare", "up/1", "base")
    assert code == 1
    assert "no finished run" in said
