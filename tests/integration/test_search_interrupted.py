"""A search that is interrupted from outside, as a person would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from zfleet.config.specs import BaseSpec, SearchSpec
from zfleet.config.task_specs import RewardSpec, TaskSpec
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
    experts: dict[str, ZVector],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[SearchSpec, Path], tuple[str, Callable[[], dict[str, Any]]]],
) -> None:
    spec = _held_spec(experts, tiny_folder, tmp_path)
    seen, again = interrupt(spec, tmp_path / "reached")
    assert seen.splitlines() == ["interrupted; the same command continues from there"]
    assert not [version for version in ExpertRegistry(spec.registry).list() if version.name == spec.name]
    before = _calls(tmp_path)
    resumed = again()
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


def _calls(root: Path) -> int:
    return len((root / "calls.log").read_text().split())
