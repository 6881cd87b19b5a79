"""Several processes and threads at once: on a database that does not exist yet, and on one name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion

MakeZ = Callable[..., ZVector]
Put = Callable[..., ExpertVersion]

# Imports once and then forks, because importing mlflow in four interpreters would take long.
_FOUR_PROCESSES = """
import multiprocessing, sys, torch, mlflow, mlflow.store.db.utils
from pathlib import Path
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, Provenance
import zfleet.models.base

def work(number, barrier):
    barrier.wait()
    registry = ExpertRegistry(root=Path(sys.argv[1]))
    for turn in range(2):
        z = ZVector({"layers.0.up": torch.full((8,), 1.0 + number + turn / 2)}, "1a2b3c4d" * 8, "f" * 64, "mlp")
        registry.register("math", z, Provenance.of(z), base_name="lab", alias="champion")

context = multiprocessing.get_context("fork")
barrier = context.Barrier(4)
workers = [context.Process(target=work, args=(number, barrier)) for number in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
sys.exit(max(worker.exitcode for worker in workers))
"""


def test_four_processes_start_one_registry(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    done = subprocess.run(
        [sys.executable, "-c", _FOUR_PROCESSES, str(root)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    # No log of alembic or MLflow reaches the terminal.
    assert "INFO" not in done.stderr
    registry = ExpertRegistry(root=root)
    versions = registry.list()
    assert [version.version for version in versions] == list(range(1, 9))
    assert len({registry.load(version).digest for version in versions}) == 8
    assert len([version for version in versions if version.aliases == ("champion",)]) == 1


def test_threads_share_one_registry(registry: ExpertRegistry, put: Put) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda seed: put(seed=seed, alias="champion"), range(8)))
        digests = list(pool.map(lambda version: registry.load(version).digest, versions))
    assert sorted(version.version for version in versions) == list(range(1, 9))
    assert digests == [version.z_digest for version in versions]


def test_threads_create_one_experiment(registry: ExpertRegistry) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda number: registry.start_run(f"run {number}", experiment="new"), range(4)))
    assert len({registry._client.get_run(run).info.experiment_id for run in runs}) == 1
