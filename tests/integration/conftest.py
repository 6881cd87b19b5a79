"""What the tests of jobs share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from zfleet.config.load import dump_spec
from zfleet.config.search import SearchSpec
from zfleet.config.specs import BaseSpec, EngineSpec, ResourceSpec, TrainSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import EngineStats
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.svf.zvector import ZVector
from zfleet.testing.parity import random_z
from zfleet_cluster.fleet.actors import Fleet, actor_fleet
from zfleet_cluster.fleet.base import ShippedBase


@pytest.fixture
def packed(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseBundle:
    """The tiny base, with its factors in a cache of the test's own, which commands find too."""
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    return pack_base(BaseSpec(model=str(tiny_folder)))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's own user can reach, as pytest's folders are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.fixture
def two_experts(packed: BaseBundle) -> dict[str, ZVector]:
    """Two random z on its factors."""
    factors = packed.open().factors
    return {name: random_z(factors, seed) for seed, name in enumerate(("one", "two"))}


@pytest.fixture
def one_replica(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], list[EngineStats]]:
    """Gives a job's module a fleet of one replica, whatever its engine, and says what the job left in it."""

    def give(module: ModuleType) -> list[EngineStats]:
        left: list[EngineStats] = []

        @contextmanager
        def shared(shipped: ShippedBase, engine: EngineSpec, resources: ResourceSpec) -> Iterator[Fleet]:
            with actor_fleet(shipped, engine, resources, replicas=1) as fleet:
                yield fleet
                with SyncEngine(fleet.engine()) as client:
                    left.append(client.stats())

        monkeypatch.setattr(module, "shared_fleet", shared)
        return left

    return give


@pytest.fixture
def interrupt() -> Callable[[TrainSpec | SearchSpec, Path], str]:
    """Starts a job's command and presses Ctrl-C once a file is there; nothing may be left of the command.

    Gives what a person saw of it. The job's spec is written beside the file.
    """

    def give(job: TrainSpec | SearchSpec, reached: Path) -> str:
        spec = reached.with_name("interrupted.yaml")
        spec.write_text(dump_spec(job))
        return _interrupted([str(Path(sys.executable).with_name("zfleet")), job.kind, str(spec)], reached)

    return give


def _interrupted(command: list[str], reached: Path) -> str:
    """Its error stream, after Ctrl-C."""
    family: list[psutil.Process] = []
    with subprocess.Popen(
        command, cwd=reached.parent, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            deadline = time.monotonic() + 600
            while not reached.exists():
                assert child.poll() is None, child.communicate()[1]
                assert time.monotonic() < deadline, "the command did not come that far"
                time.sleep(0.1)
            family = psutil.Process(child.pid).children(recursive=True)
            assert any("raylet" in process.name() for process in family)
            os.killpg(child.pid, signal.SIGINT)
            _, errors = child.communicate(timeout=300)
            assert child.returncode == 130, errors
            _, left = psutil.wait_procs(family, timeout=120)
            assert not left, "processes were left behind"
        finally:
            child.kill()
            for process in family:
                if process.is_running():
                    process.kill()
    return errors
