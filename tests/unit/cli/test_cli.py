"""The ``zfleet`` command: its imports, its output and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from zfleet.config.load import load_job, load_spec, parse_spec
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import TrainSpec
from zfleet.errors import JobError
from zfleet_cli.demo.real.plan import FULL, QUICK, Plan, with_arc
from zfleet_cli.main import app

ROOT = Path(__file__).parents[3]
SPECS = ROOT / "jobs" / "specs"
LAB = str(SPECS / "lab-experts.yaml")


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    # Wide enough that no message is wrapped and no cell is folded.
    monkeypatch.setenv("COLUMNS", "200")


def zfleet(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **members: object) -> None:
    """Replace a module that starts a cluster by one with these members."""
    replacement = ModuleType(module)
    for name, member in members.items():
        setattr(replacement, name, member)
    monkeypatch.setitem(sys.modules, module, replacement)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["serve", "jobs/specs/serve.yaml", "--dry-run"]], ids=" ".join
)
def test_heavy_libraries_are_imported_late(arguments: list[str]) -> None:
    check = (
        "import sys\nfrom zfleet_cli.main import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'transformers'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_installed_command_ends_with_two_lines_and_exit_code_1() -> None:
    command = Path(sys.executable).with_name("zfleet")
    done = subprocess.run([command, "train", "no.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: spec no.yaml cannot be read: No such file or directory",
        "remedy: check the path",
    ]


@pytest.mark.parametrize(("command", "kind"), [("train", TrainSpec), ("search", SearchSpec), ("serve", ServeSpec)])
def test_a_dry_run_prints_the_spec_that_would_run(command: str, kind: type[TrainSpec | SearchSpec | ServeSpec]) -> None:
    path = SPECS / {"train": "lab-experts.yaml", "search": "lab-mix.yaml", "serve": "serve.yaml"}[command]
    done = zfleet(command, str(path), "--set", "base.name=mine", "--set", "engine.slots=5", "--dry-run")
    assert done.exit_code == 0, done.output
    spec = parse_spec(yaml.safe_load(done.stdout), kind)
    # On the lab base, `auto` is the embedded engine.
    assert spec == load_spec(path, kind, ["base.name=mine", "engine.slots=5", "engine=torch"])
    assert ("engine: torch, chosen by `auto`" in done.stderr) == (command != "train")
    assert spec != load_job(path)


def test_a_dry_run_as_json_parses_too() -> None:
    done = zfleet("train", LAB, "--dry-run", "--json")
    assert parse_spec(json.loads(done.stdout), TrainSpec) == load_job(Path(LAB))


def test_serve_needs_no_spec_file() -> None:
    done = zfleet("serve", "--dry-run")
    assert parse_spec(yaml.safe_load(done.stdout), ServeSpec) == parse_spec({"engine": "torch"}, ServeSpec)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["train", LAB, "--set", "learner.stesp=3"], "unknown key 'learner.stesp': did you mean 'steps'?"),
        (["train", LAB, "--set", "experts.0.task.lab=juggle"], "no lab task is named 'juggle'"),
        (["search", str(SPECS / "lab-mix.yaml"), "--set", "task={jsonl: no.jsonl}"], "no.jsonl cannot be read"),
        (["train", str(SPECS / "stories.yaml"), "--set", "experts.0.task.reward={kind: regex, value: (}"], "regular"),
        (["train", str(SPECS / "stories.yaml")], "'path/to/a/model/folder' is no folder"),
        (["train", str(SPECS / "serve.yaml")], "kind is 'serve'"),
        (["serve", "--set", "port=0"], "port is 0"),
        (["decompose", "--set", "base.model=./no-such-folder"], "'./no-such-folder' is no folder"),
        (["lab", "build", "--steps", "1", "--seed", "x"], "--seed"),
    ],
)
def test_bad_input_ends_with_a_message(arguments: list[str], error: str) -> None:
    done = zfleet(*arguments, *([] if arguments[0] in ("decompose", "lab") else ["--dry-run"]))
    assert done.exit_code != 0
    assert done.stdout == ""
    assert error in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failing_job_prints_error_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_train(spec: TrainSpec, address: str | None) -> list[object]:
        raise JobError(f"worker of [bold]{spec.run}[/bold] lost at {address}", "start it again")

    stand_in(monkeypatch, "zfleet_jobs.train.run", run_train=run_train)
    done = zfleet("train", LAB, "--address", "there:1")
    assert done.exit_code == 1
    # Brackets are text, not markup: paths and shapes have them.
    assert done.stderr == "error: worker of [bold]lab-experts[/bold] lost at there:1\nremedy: start it again\n"
    debugged = zfleet("--debug", "train", LAB)
    assert isinstance(debugged.exception, JobError)


@pytest.mark.parametrize(
    ("arguments", "job"),
    [
        (["train", LAB], "train"),
        (["search", str(SPECS / "lab-mix.yaml")], "search"),
        (["decompose"], "decompose"),
        (["compare", str(SPECS / "lab-compare.yaml")], "experiment"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_results_do_not_contain_what_ray_prints(
    arguments: list[str], job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> None:
        print("a node died")
        raise JobError("the end")

    module = f"zfleet_jobs.{'compare' if job == 'experiment' else job}.run"
    stand_in(monkeypatch, module, **{f"run_{job}": run})
    done = zfleet(*arguments, "--json")
    assert done.stdout == ""
    assert done.stderr == "a node died\nerror: the end\n"


def test_a_run_is_named_after_its_spec_file_by_default(tmp_path: Path) -> None:
    task = "experts: [{name: a, task: {lab: reverse}}]\n"
    for name, text in (("my job.yaml", task), ("other.yaml", task + "run: mine\n")):
        (tmp_path / name).write_text(text)
    runs = [json.loads(zfleet("train", str(path), "--dry-run", "--json").stdout)["run"] for path in tmp_path.iterdir()]
    assert sorted(runs) == ["mine", "my-job"]


def test_only_a_run_that_was_started_can_be_resumed(tmp_path: Path) -> None:
    place = f"storage={tmp_path}"
    for arguments in (["--resume", "r"], [LAB, "--resume", "r"]):
        done = zfleet("train", *arguments, "--set", place)
        assert done.exit_code == 1
        assert done.stderr.startswith(f"error: --resume 'r': there is no such run in {tmp_path}\n")
    done = zfleet("train")
    assert done.exit_code == 1
    assert "neither a spec file nor --resume RUN is given" in done.stderr


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "zfleet_jobs.train.run", run_train=lambda spec, address: [][0])
    assert isinstance(zfleet("train", LAB).exception, IndexError)


def test_an_interrupt_ends_with_130_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_serve(spec: ServeSpec, address: str | None) -> None:
        raise KeyboardInterrupt

    stand_in(monkeypatch, "zfleet_serve.run", run_serve=run_serve)
    done = zfleet("serve")
    assert done.exit_code == 130
    assert done.stdout == ""
    assert done.stderr.startswith("interrupted")
    assert done.stderr.count("\n") == 1


def test_results_are_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    from zfleet_jobs.train.plan import TrainedExpert

    trained = TrainedExpert("[a]", "[a]/3", "d" * 64, 1344, 500, 0.25, 0.98, 0.62, 0.9876, 7, 0.0, "run1")
    stand_in(monkeypatch, "zfleet_jobs.train.run", run_train=lambda spec, address: [trained])
    table = zfleet("train", LAB).stdout
    assert "trained: lab-experts" in table
    for cell in ("[a]/3", "1344", "0.988", "trained", "7"):
        assert cell in table
    (row,) = json.loads(zfleet("train", LAB, "--json").stdout)
    assert row == asdict(trained)


def test_the_demo_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, bool, str]] = []
    stand_in(monkeypatch, "zfleet_cli.demo.lab", run=None)
    stand_in(monkeypatch, "zfleet_cli.demo.lab.run", run_demo=lambda *arguments: calls.append(arguments))
    zfleet("demo")
    zfleet("demo", "--keep", "--out", "elsewhere", "--engine", "vllm")
    assert calls == [(Path("runs/demo"), False, "torch"), (Path("elsewhere"), True, "vllm")]


def test_the_demo_on_a_pretrained_base_gets_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, Path, Plan, bool]] = []
    stand_in(monkeypatch, "zfleet_cli.demo.real.run", run_real_demo=lambda *arguments: calls.append(arguments))
    zfleet("demo", "--base", "smollm2")
    zfleet("demo", "--base", "/models/my-llama", "--quick")
    (tmp_path / "ARC-Easy-Train.jsonl").touch()
    zfleet("demo", "--base", "smollm2", "--arc", str(tmp_path), "--out", "elsewhere")
    assert calls == [
        ("smollm2", Path("runs/demo-smollm2"), FULL, False),
        ("/models/my-llama", Path("runs/demo-my-llama-quick"), QUICK, True),
        ("smollm2", Path("elsewhere"), with_arc(FULL, tmp_path), False),
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--quick"], "--quick and --arc are for a pretrained base"),
        (["--arc", "folder"], "--quick and --arc are for a pretrained base"),
        (["--base", "smollm2", "--keep"], "--keep and --engine are for the lab base, --base is 'smollm2'"),
        (["--base", "smollm2", "--engine", "vllm"], "--keep and --engine are for the lab base"),
    ],
)
def test_an_option_of_the_other_demo_is_refused(options: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["demo", *options])
    assert done.exit_code == 1
    assert words in " ".join(done.output.split())


def test_completions_of_a_generated_task_are_graded(tmp_path: Path) -> None:
    rows = [
        {"completion": "No, it is not.", "answer": "no", "options": "yes, no", "expected": True},
        {"completion": "Yes or no?", "answer": "yes", "options": "yes, no", "expected": False},
    ]
    file = tmp_path / "completions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = zfleet("grade", "--task", "memberships", "--file", str(file), "--json")
    summary = json.loads(done.stdout)
    assert (summary["n"], summary["right"], summary["agreement"]) == (2, 1, 1.0)
    refused = CliRunner().invoke(app, ["grade", "--task", "algebra", "--file", str(file)])
    assert "reviews" in refused.output


def test_ctrl_c_in_a_finalizer_is_not_lost() -> None:
    program = """
import signal, time
from zfleet_cli import main as cli

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

@cli.app.command("wait")
def wait():
    Finalized()
    time.sleep(60)

cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program, "wait"], capture_output=True, text=True, timeout=50)
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr
