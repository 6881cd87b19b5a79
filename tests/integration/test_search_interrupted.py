"""A search that is interrupted from outside, as a person would.

A command of its own: only a signal to a whole process group shows what a person sees and what is left behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from zfleet.search.coefficients import alphas_of
from zfleet.search.cross_entropy import Generation

from zfleet.config.search import SearchSpec
from zfleet.config.specs import BaseSpec, ResourceSpec
from zfleet.config.task_specs import RewardSpec, TaskSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.build import build_task
from zfleet.testing.parity import random_z
from zfleet_jobs.search.problem import SearchProblem, shots_of
from zfleet_jobs.search.run import run_search, settings_of
from zfleet_jobs.search.scoring import score_candidates
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
def base(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseBundle:
    """The base, with the factors that the command will find in the cache."""
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    return pack_base(BaseSpec(model=str(tiny_folder)))


@pytest.fixture
def experts(base: BaseBundle) -> dict[str, ZVector]:
    """Two random z on these factors."""
    factors = base.open().factors
    return {name: random_z(factors, seed) for seed, name in enumerate(("one", "two"))}


@pytest.mark.usefixtures("ray_cluster")
def test_ctrl_c_ends_cleanly_and_the_same_search_goes_on(
    base: BaseBundle,
    experts: dict[str, ZVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[SearchSpec, Path], str],
) -> None:
    spec = _held_spec(experts, base, tmp_path)
    seen = interrupt(spec, tmp_path / "reached")
    assert seen.splitlines()[-1] == "interrupted; the same command continues from there"
    assert "Traceback" not in seen
    assert not [version for version in ExpertRegistry(spec.registry).list() if version.name == spec.name]
    before = _calls(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    resumed = run_search(spec)
    assert _calls(tmp_path) - before < CALLS, "the second run did not go on from what was done"
    assert (resumed.z_digest, resumed.history) == _undisturbed(spec, base, experts)


def _undisturbed(spec: SearchSpec, base: BaseBundle, experts: dict[str, ZVector]) -> tuple[str, tuple[Generation, ...]]:
    """The digest of the mixture and the history of the same search as a plain loop in this process."""
    task = shots_of(build_task(spec.task), spec.shots, spec.shots_seed)
    zs, tokenizer = list(experts.values()), base.tokenizer()
    search = SearchProblem(spec.name, experts, task).cross_entropy(settings_of(spec))
    with SyncEngine(TorchEngine(base.open(), spec.engine)) as engine:
        for _ in range(spec.generations):
            chunks = np.array_split(search.ask(), spec.trials_per_generation)
            scores = [score_candidates(engine, tokenizer, zs, task, chunk.tolist(), None) for chunk in chunks]
            search.tell([score for chunk in scores for score in chunk])
    assert search.best is not None
    return mix(zs, alphas_of(search.best.point, search.experts, search.layers)).digest, search.history


def _held_spec(experts: dict[str, ZVector], base: BaseBundle, root: Path) -> SearchSpec:
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
        base=base.spec,
        experts=("one", "two"),
        task=TaskSpec(jsonl=str(root / "rows.jsonl"), reward=reward, max_tokens=4),
        name="held",
        shots=4,
        population=8,
        generations=4,
        resources=ResourceSpec(cpus=2),
        storage=str(root / "runs"),
        registry=store,
    )


def _calls(root: Path) -> int:
    return len((root / "calls.log").read_text().split())
