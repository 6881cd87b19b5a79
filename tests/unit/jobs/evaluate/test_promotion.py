"""``zfleet experts promote --evidence``: from the folder of a finished evaluation to the alias and the log."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zfleet.errors import SamplesError
from zfleet_cli.main import app
from zfleet_jobs.evaluate.evidence import stored_evidence
from zfleet_jobs.run_folder.checkpoints import RUN_FILE
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.testing.evaluations import EXPERTS, KINDS, made_up_task, prepare_fake
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance

TASKS = {name: made_up_task(name, kinds, test_size=60) for name, kinds in (("up", ("up",)), ("mixed", KINDS))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A finished evaluation: `up/1` answers the task `up`, `down/2` does not, and in `mixed` they are as good."""
    evaluation = prepare_fake(tmp_path_factory.mktemp("cache"), TASKS, EXPERTS)
    run = Storage.at(str(tmp_path_factory.mktemp("run")))
    evaluation.write(run)
    run.put(RUN_FILE, json.dumps({"run": "run-of-mlflow"}).encode())
    return run


@pytest.fixture
def versions(tmp_path: Path) -> tuple[str, ExpertVersion, ExpertVersion]:
    """A registry with a worse and a better version of one expert; the worse is the champion."""
    registry = ExpertRegistry(root=tmp_path)
    # The fake engine's base has a fingerprint that no registry takes; the z digest does not depend on it.
    zs = [replace(EXPERTS[name], base="0123abcd" * 8) for name in ("down/2", "up/1")]
    worse, better = (registry.register("asker", z, Provenance.of(z), base_name="fake") for z in zs)
    worse = registry.set_alias(worse, "champion")
    return f"sqlite:///{tmp_path / 'mlflow.db'}", worse, better


def test_evidence_is_read_from_the_folder(folder: Storage, versions: tuple[str, ExpertVersion, ExpertVersion]) -> None:
    _, worse, better = versions
    found = stored_evidence(folder.place, better, worse)
    assert (found.run_id, found.candidate, found.present) == ("run-of-mlflow", better.z_digest, worse.z_digest)
    up, mixed = found.tasks["up"], found.tasks["mixed"]
    assert (up.prompts, up.candidate.mean, up.present.mean) == (60, 1.0, 0.0)
    assert mixed.candidate.mean == mixed.present.mean == pytest.approx(1 / 3)
    with pytest.raises(SamplesError, match="no finished run"):
        stored_evidence(folder.place + "-none", better, worse)


def test_a_gate_passes_and_refuses_by_the_folder(
    folder: Storage, versions: tuple[str, ExpertVersion, ExpertVersion], tmp_path: Path
) -> None:
    registry, worse, better = versions

    def call(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["experts", *arguments, "--registry", registry])
        assert done.exit_code == code, done.output
        return done.stdout

    gate = tmp_path / "gate.yaml"
    gate.write_text("tasks: [up]\ngain: 20\nguard: {tasks: [mixed], loss: 0.5}\n")
    call("protect", "asker", "--gate", str(gate))
    strict = call("promote", better.qualified, "--evidence", folder.place, code=1)
    assert "guard on mixed" in strict
    assert "refused (entry 5 of the log)" in strict
    gate.write_text("tasks: [up]\ngain: 20\nguard: {tasks: [mixed], loss: 30}\n")
    call("protect", "asker", "--gate", str(gate), "--why", "60 prompts cannot show half a point")
    outcome = json.loads(call("promote", better.qualified, "--evidence", folder.place, "--json"))
    assert outcome["promoted"]
    assert [check["passed"] for check in outcome["decision"]["checks"]] == [True, True]
    assert ExpertRegistry(registry).resolve("asker", worse.base_slug).version == better.version
    back = call("promote", worse.qualified, "--evidence", folder.place, code=1)
    assert "gain on up" in back
    printed = call("history", "asker", "--entry", str(outcome["entry"]))
    assert "run-of-mlflow" in printed
    assert "gain on up" in printed
