"""A dry run checks the base's chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from zfleet.adapt.document import DispatcherDocument, StepDocument
from zfleet.adapt.stored import StoredDispatcher
from zfleet.models.base import base_slug
from zfleet.models.fingerprint import fingerprint
from zfleet.svf.zvector import ZVector
from zfleet_cli.main import app
from zfleet_registry import ExpertRegistry, Provenance

WORDS = "Conversation roles must begin with a system turn"


@pytest.fixture
def spec(tiny_folder: Path, tmp_path: Path) -> Path:
    """Write a job on a base whose chat template needs a system turn, which tasks do not have."""
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    needs_system = "{% if messages[0].role != 'system' %}{{ raise_exception('" + WORDS + "') }}{% endif %}"
    tokenizer.chat_template = needs_system + tokenizer.chat_template
    tokenizer.save_pretrained(base)
    rows = [json.dumps({"prompt": f"flip {letter}", "answer": letter}) for letter in "abcdefgh"]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    task = {"jsonl": str(tmp_path / "rows.jsonl"), "test_fraction": 0.5}
    job = {"base": {"model": str(base)}, "experts": [{"name": "flip", "task": task}]}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def test_the_error_quotes_a_template_that_refuses_the_prompts(spec: Path) -> None:
    done = CliRunner().invoke(app, ["train", str(spec), "--dry-run"])
    assert done.exit_code == 1
    assert f"refuses turns of user: {WORDS}" in done.output
    assert "Traceback" not in done.output


@pytest.fixture
def plain(tiny_folder: Path, tmp_path: Path) -> list[str]:
    """Arguments of a job on the tiny base, up to its kind."""
    rows = [json.dumps({"prompt": f"flip {letter}", "answer": letter}) for letter in "abcdefgh"]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    task = {"jsonl": str(tmp_path / "rows.jsonl"), "test_fraction": 0.5, "template": "{prompt}", "max_tokens": 4}
    base = {"model": str(tiny_folder)}
    learner = {"steps": 2, "prompts_per_step": 4}
    jobs: dict[str, dict[str, Any]] = {
        "train": {"experts": [{"name": "flip", "task": task}], "learner": learner},
        "search": {"experts": ["flip"], "task": task, "name": "mixed"},
        "compare": {
            "tasks": {"flip": task},
            "learner": learner,
            "methods": {"svf": {}, "lora": {"adapter": "lora"}},
            "against": "svf",
        },
        "evaluate": {"tasks": {"flip": task}, "experts": ["flip"], "name": "small", "shots": [1], "draws": [0]},
        "calibrate": {
            "name": "router",
            "dispatcher": "nearest",
            "labels": {"flip": {"expert": "flip", "task": task}},
        },
        "serve": {},
    }
    for kind, job in jobs.items():
        (tmp_path / f"{kind}.yaml").write_text(yaml.safe_dump({"kind": kind, "base": base, **job}))
    return [str(tmp_path / f"{kind}.yaml") for kind in jobs]


def test_a_dry_run_prints_the_memory_of_every_kind_of_job(plain: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    processes = (
        "a worker",
        "an actor of the search",
        "a worker",
        "a worker of the evaluation",
        "the calibration",
        "a replica",
    )
    for path, process in zip(plain, processes, strict=True):
        done = CliRunner().invoke(app, [Path(path).stem, path, "--dry-run"])
        assert done.exit_code == 0, done.output
        assert f"memory of {process}" in done.stderr
        assert yaml.safe_load(done.stdout)["kind"] == Path(path).stem
        lines = [line.strip() for line in done.stderr.splitlines()]
        assert max(map(len, lines[lines.index(f"memory of {process}") :])) <= 80
        for part in ("weights", "factors", "at most at once"):
            assert part in done.stderr


def test_a_dry_run_as_json_has_the_memory_in_bytes(plain: list[str]) -> None:
    done = CliRunner().invoke(app, ["train", plain[0], "--dry-run", "--json"])
    memory = json.loads(done.stdout)["memory"]
    assert memory["process"] == "a worker"
    assert memory["peak"] >= sum(part["bytes"] for part in memory["parts"] if part["when"] == "always")
    assert memory["available"]["bytes"] > 0


@pytest.mark.parametrize("kind", ["train", "search", "compare", "evaluate", "calibrate", "serve"])
def test_a_dry_run_refuses_memory_below_the_weights(plain: list[str], kind: str) -> None:
    (path,) = (path for path in plain if Path(path).stem == kind)
    done = CliRunner().invoke(app, [kind, path, "--dry-run", "--set", "resources.memory=64MiB"])
    assert done.exit_code == 1
    assert "has 64.0 MiB: that is resources.memory" in done.stderr
    assert "raise resources.memory to" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def registry(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """URI of a registry with experts and dispatchers of the tiny base, and the slug of another base in it.

    One for all tests, which only read it: initialising one takes seconds.
    """
    store = f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"
    registry, own = ExpertRegistry(store), fingerprint(tiny_folder)

    def put(name: str, base: str, seed: int, targets: str = "all") -> ZVector:
        z = ZVector({"model.layers.0.mlp.up_proj": torch.full((4,), 1.0 + seed)}, base, "f" * 64, targets)
        registry.register(name, z, Provenance.of(z), base_name="tiny")
        return z

    known = {name: put(name, own, seed) for seed, name in enumerate(("flip", "turn"))}
    put("narrow", own, 2, "mlp")
    put("far", "0" * 64, 3)
    for name, expert in (("router", "flip"), ("stray", "turn")):
        document = DispatcherDocument(
            base=own,
            factors="f" * 64,
            experts={f"{expert}/1": known[expert].digest},
            tasks={"flip": {f"{expert}/1": 1.0}},
            steps=(StepDocument(kind="few_shot"),),
        )
        stored = StoredDispatcher(document)
        provenance = Provenance.of_dispatcher(stored, spec="", code_version="", metrics={})
        registry.register(name, stored, provenance, base_name="tiny")
    return store, base_slug("tiny", "0" * 64)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("flip/1", ""),
        ("nobody", "'nobody'"),
        ("narrow", "narrow/1, whose targets are 'mlp'; base.targets is 'all'"),
        ("FAR.far/1", "far/1, a z of base 000000000000"),
    ],
)
def test_a_dry_run_looks_up_what_a_training_begins_at(
    start: str, message: str, plain: list[str], registry: tuple[str, str]
) -> None:
    store, far = registry
    job = yaml.safe_load(Path(plain[0]).read_text()) | {"registry": store}
    job["experts"][0]["start"] = start.replace("FAR", far)
    job["base"]["name"] = "tiny"
    Path(plain[0]).write_text(yaml.safe_dump(job))
    _check(CliRunner().invoke(app, ["train", plain[0], "--dry-run"]), message)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("router", ""),
        ("router/1", ""),
        ("nobody", "'nobody'"),
        ("flip", "is an expert, not a dispatcher"),
        ("stray", "space.prior is stray/1, which routes to turn/1"),
    ],
)
def test_a_dry_run_looks_up_what_a_search_begins_with(
    prior: str, message: str, plain: list[str], registry: tuple[str, str]
) -> None:
    values = [f"space.prior={prior}", f"registry={registry[0]}", "base.name=tiny"]
    overrides = [text for value in values for text in ("--set", value)]
    _check(CliRunner().invoke(app, ["search", plain[1], "--dry-run", *overrides]), message)


def _check(done: Result, message: str) -> None:
    if not message:
        assert done.exit_code == 0, done.output
        return
    assert done.exit_code == 1
    # Lines of the error are wrapped.
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
