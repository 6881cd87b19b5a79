"""A search that is interrupted from outside, as a person would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from zfleet.config.load import dump_spec
from zfleet.config.specs import BaseSpec, RewardSpec, SearchSpec, TaskSpec
from zfleet.models.bundle import pack_base
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z
from zfleet_jobs.search.run import run_search
from zfleet_registry.provenance import Provenance
from zfleet_registry.registry import ExpertRegistry

HOLDS = '''
import os, time
from pathlib import Path

ROOT = Path({root!r})


def holds(completion, sample):
    """Vowels are right; the first process that came half of the way waits for Ctrl-C."""
    log = ROOT / "calls.log"
    with log.open("a") as file:
        file.write(f"{{os.getpid()}}\\n")
    if len(log.read_text().split()) > 60 and not (ROOT / "reached").exists():
        (ROOT / "reached").touch()
        time.sleep(300)
    return 1.0 if completion.strip()[:1] in tuple("aeiou02468") else -1.0
'''
CALLS = 4 * 8 * 4
"""Generations, candidates and shots: how often a search asks its reward."""


@pytest.fixture
def experts(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, ZVector]:
    """Two random z on the factors that the command will find in the cache."""
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    factors = pack_base(BaseSpec(model=str(tiny_folder))).open().factors
    return {name: random_z(factors, seed) for seed, name in enumerate(("one", "two"))}


@pytest.mark.usefixtures("ray_cluster")
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(
    experts: dict[str, ZVector], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _held_spec(experts, tiny_folder, tmp_path)
    command = _write_command(spec, tmp_path)
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    family: list[psutil.Process] = []
    try:
        _wait_for(tmp_path / "reached", child)
        family = psutil.Process(child.pid).children(recursive=True)
        assert any("raylet" in process.name() for process in family)
        os.killpg(child.pid, signal.SIGINT)
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 130, errors
        assert errors.splitlines() == ["interrupted; the same command goes on where it stopped"]
        _, left = psutil.wait_procs(family, timeout=20)
        assert not left, "processes were left behind"
    finally:
        for process in family:
            if process.is_running():
                process.kill()
        child.kill()
        child.wait()
    assert not [version for version in ExpertRegistry(spec.registry).list() if version.name == spec.name]
    before = _calls(tmp_path)
    resumed = _found_by(command, tmp_path)
    after = _calls(tmp_path) - before
    assert after < CALLS, "the second run did not go on from what was done"
    monkeypatch.syspath_prepend(tmp_path)
    whole = run_search(spec.model_copy(update={"name": "undisturbed"}))
    assert _calls(tmp_path) == before + after + CALLS
    assert (resumed["z_digest"], resumed["history"]) == (whole.z_digest, [asdict(one) for one in whole.history])


def _held_spec(experts: dict[str, ZVector], base: Path, root: Path) -> SearchSpec:
    """A search whose reward holds on, with everything it needs under ``root``."""
    store = f"sqlite:///{root}/mlflow.db"
    registry = ExpertRegistry(store)
    for name, z in experts.items():
        registry.register(name, z, Provenance.of(z), base_name="tiny")
    (root / "graders_of_search_test.py").write_text(HOLDS.format(root=str(root)))
    rows = [{"prompt": f"flip {word}"} for word in ("abc", "xyz", "ab", "cd", "efg", "hi", "jk")]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    reward = RewardSpec(kind="python", value="graders_of_search_test:holds")
    return SearchSpec(
        base=BaseSpec(model=str(base)),
        experts=("one", "two"),
        task=TaskSpec(jsonl=str(root / "rows.jsonl"), reward=reward, max_tokens=4),
        name="held",
        shots=4,
        population=8,
        generations=4,
        storage=str(root / "runs"),
        registry=store,
    )


def _write_command(spec: SearchSpec, root: Path) -> list[str]:
    path = root / f"{spec.name}.yaml"
    path.write_text(dump_spec(spec))
    return [str(Path(sys.executable).with_name("zfleet")), "search", str(path)]


def _wait_for(path: Path, child: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < deadline, "the search did not come that far"
        time.sleep(0.1)


def _calls(root: Path) -> int:
    return len((root / "calls.log").read_text().split())


def _found_by(command: list[str], root: Path) -> dict[str, Any]:
    done = subprocess.run([*command, "--json"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result
