"""A search that is interrupted from outside, as a person would.

A command of its own: only a signal to a whole process group shows what a person sees and what is left behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from zfleet.config.search import SearchSpec
from zfleet.config.specs import ResourceSpec
from zfleet.config.task_specs import RewardSpec, TaskSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.bundle import BaseBundle
from zfleet.search.plan import Generation
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.build import build_task
from zfleet_jobs.search.run import problem_of, run_search
from zfleet_jobs.search.scoring import measure_candidates
from zfleet_jobs.search.searcher import RECORD
from zfleet_jobs.search.settings import SearchSettings
from zfleet_jobs.search.tuning import new_searcher
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


@pytest.mark.usefixtures("ray_cluster")
def test_ctrl_c_ends_cleanly_and_the_same_search_goes_on(
    packed: BaseBundle,
    two_experts: dict[str, ZVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: Callable[[SearchSpec, Path], str],
) -> None:
    spec = _held_spec(two_experts, packed, tmp_path)
    seen = interrupt(spec, tmp_path / "reached")
    assert seen.splitlines()[-1] == "interrupted; the same command continues from there"
    assert "Traceback" not in seen
    assert not [version for version in ExpertRegistry(spec.registry).list() if version.name == spec.name]
    before = _calls(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    resumed = run_search(spec)
    assert _calls(tmp_path) - before < resumed.evaluations, "the second run did not go on from what was done"
    assert (resumed.z_digest, resumed.history) == _undisturbed(spec, packed, two_experts)


def _undisturbed(spec: SearchSpec, base: BaseBundle, experts: dict[str, ZVector]) -> tuple[str, tuple[Generation, ...]]:
    """The digest of the mixture and the history of the same search as a plain loop in this process."""
    problem, settings = problem_of(spec, experts, build_task(spec.task)), SearchSettings.of(spec)
    searcher, tokenizer = new_searcher({spec.name: problem}, settings), base.tokenizer()
    with SyncEngine(TorchEngine(base.open(), spec.engine)) as engine:
        while isinstance(chunk := searcher.suggest("next"), dict):
            measured = measure_candidates(engine, tokenizer, problem, settings, chunk["points"], chunk["samples"])
            searcher.on_trial_result("next", dict.fromkeys(RECORD, 0) | chunk | {"measured": measured})
            searcher.on_trial_complete("next")
    search = searcher.searches[spec.name]
    assert search.outcome is not None
    return mix(list(experts.values()), search.space.alphas(search.outcome.winner.tolist())).digest, search.history


def _held_spec(experts: dict[str, ZVector], base: BaseBundle, root: Path) -> SearchSpec:
    """A search whose reward holds on, with everything it needs under ``root``."""
    store = f"sqlite:///{root}/mlflow.db"
    registry = ExpertRegistry(store)
    for name, z in experts.items():
        registry.register(name, z, Provenance.of(z), base_name="tiny")
    (root / "graders_of_search_test.py").write_text(HOLDS.format(root=str(root)))
    words = ("abc", "xyz", "ab", "cd", "efg", "hi", "jk", "lm", "nop", "qr", "stu", "vw")
    rows = [{"prompt": f"flip {word}"} for word in words]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    reward = RewardSpec(kind="python", value="graders_of_search_test:holds")
    return SearchSpec(
        base=base.spec,
        experts=("one", "two"),
        task=TaskSpec(jsonl=str(root / "rows.jsonl"), reward=reward, max_tokens=4),
        name="held",
        shots=4,
        shots_seed=1,  # On these shots a mixture wins, not the base.
        selection=2,
        test_samples=2,
        population=8,
        generations=4,
        racing=False,
        resources=ResourceSpec(cpus=2),
        storage=str(root / "runs"),
        registry=store,
    )


def _calls(root: Path) -> int:
    return len((root / "calls.log").read_text().split())
