"""A search whose reward holds on, so that a test can interrupt or kill it half of the way."""

from __future__ import annotations

import json
from pathlib import Path

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
from zfleet_jobs.search.run import problem_of
from zfleet_jobs.search.scoring import measure_candidates
from zfleet_jobs.search.searcher import RECORD
from zfleet_jobs.search.settings import SearchSettings
from zfleet_jobs.search.tuning import new_searcher
from zfleet_registry.provenance import Provenance
from zfleet_registry.registry import ExpertRegistry

_HOLDS = '''
import os, time
from pathlib import Path

ROOT = Path({root!r})


def holds(completion, sample):
    """Vowels are right; the first process that came half of the way waits."""
    log = ROOT / "calls.log"
    with log.open("a") as file:
        file.write(f"{{os.getpid()}}\\n")
    if len(log.read_text().split()) > 60 and not (ROOT / "reached").exists():
        (ROOT / "reached").touch()
        time.sleep(300)
    return 1.0 if completion.strip()[:1] in tuple("aeiou02468") else -1.0
'''


def held_spec(experts: dict[str, ZVector], base: BaseBundle, root: Path) -> SearchSpec:
    """Make a search whose reward holds on once ``root/reached`` is there, with everything it needs under ``root``."""
    store = f"sqlite:///{root}/mlflow.db"
    registry = ExpertRegistry(store)
    for name, z in experts.items():
        registry.register(name, z, Provenance.of(z), base_name="tiny")
    (root / "graders_of_search_test.py").write_text(_HOLDS.format(root=str(root)))
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


def undisturbed(spec: SearchSpec, base: BaseBundle, experts: dict[str, ZVector]) -> tuple[str, tuple[Generation, ...]]:
    """Return the digest of the mixture and the history of the same search, as a plain loop in this process."""
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


def calls(root: Path) -> int:
    """Count how often the reward was asked."""
    return len((root / "calls.log").read_text().split())
