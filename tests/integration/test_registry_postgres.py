"""Drill: a registry on PostgreSQL that eight processes write at once, two of which are killed in the middle.

The server is the system's own, started here (``make postgres`` installs it).
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, Provenance, z_file
from zfleet_registry.bulk import import_files
from zfleet_registry.fsck import check_registry
from zfleet_registry.log import Entry, verify
from zfleet_registry.testing import running_postgres

pytestmark = pytest.mark.drill

PROCESSES, KILLED, EACH = 8, 2, 100
SLUG = "lab-1a2b3c4d"


@pytest.fixture
def database() -> Iterator[str]:
    """The URI of an empty database on a server of this test's own."""
    with running_postgres() as uri:
        yield uri


def test_eight_processes_write_at_once_and_two_are_killed(database: str, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    registry = ExpertRegistry(database, root)
    script = Path(__file__).with_name("writer_of_versions.py")
    commands = [[sys.executable, str(script), database, str(root), str(writer)] for writer in range(PROCESSES + 1)]
    subprocess.run([*commands[PROCESSES], "1"], check=True)
    writers = [subprocess.Popen([*command, str(EACH)]) for command in commands[:PROCESSES]]
    for count, process in enumerate(writers[:KILLED], start=1):
        while len(registry.list(SLUG)) < 40 * count:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.2)
        process.kill()
    ends = [process.wait() for process in writers]
    assert ends == [-signal.SIGKILL] * KILLED + [0] * (PROCESSES - KILLED)

    versions = registry.list(SLUG)
    assert [version.version for version in versions] == list(range(1, len(versions) + 1)), "numbers have gaps"
    whole = 1 + (PROCESSES - KILLED) * EACH
    assert whole < len(versions) < whole + KILLED * EACH
    for version in versions:
        assert registry.load(version).digest == version.z_digest
    log = registry.log(SLUG, "math")
    entries = list(log.entries())
    assert verify(entries) is None
    numbers = [entry.number for entry in entries if isinstance(entry, Entry)]
    assert numbers == list(range(1, len(entries) + 1))
    assert [one for one in check_registry(registry._connection, repair=True) if not one.mended] == []
    assert check_registry(registry._connection) == []
    champion = registry.resolve("math@champion", SLUG)
    assert champion.version == log.state.version_of("champion")
    assert registry.load(champion).digest == champion.z_digest


def test_a_folder_is_imported_by_several_threads(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The versions of each expert are in order, and what was downloaded once is read from the cache."""
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    registry, files = ExpertRegistry(database, tmp_path / "artifacts"), tmp_path / "files"
    files.mkdir()
    for number in range(40):
        z = ZVector({"layers.0.mlp": torch.full((8,), 1.0 + number)}, "1a2b3c4d" * 8, "f" * 64, "mlp")
        metadata = z_file.metadata(f"{SLUG}.expert-{number % 8}", Provenance.of(z))
        (files / f"{number:02d}.safetensors").write_bytes(z.to_bytes(metadata))
    paths = sorted(files.iterdir())
    watch = registry.watch()
    assert all(outcome.new for outcome in import_files(registry, paths))
    assert len({entry.action.expert for entry in islice(watch, 40)}) == 8
    watch.close()
    for expert in range(8):
        versions = [one for one in registry.list(SLUG) if one.name == f"expert-{expert}"]
        assert [next(iter(registry.load(one).values.values()))[0] for one in versions] == [
            1.0 + number for number in range(expert, 40, 8)
        ]
        assert verify(registry.log(SLUG, f"expert-{expert}").entries()) is None
    assert not [outcome for outcome in import_files(registry, paths) if outcome.new or outcome.error]
    shutil.rmtree(tmp_path / "artifacts")
    assert registry.load(versions[0]).digest == versions[0].z_digest
