"""Drill: a registry on PostgreSQL that eight processes write at once, two of which are killed in the middle.

The server is the system's own, started here (``make postgres`` installs it).
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from zfleet.errors import RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry import ExpertRegistry, ExpertVersion, Provenance
from zfleet_registry.log import Entry, verify
from zfleet_registry.promotion import promote, rollback

pytestmark = pytest.mark.drill

PROCESSES, KILLED, EACH = 8, 2, 100
BASE = "1a2b3c4d" * 8
SLUG = "lab-1a2b3c4d"
FASTER = re.compile("by another command meanwhile|in MLflow and at .* in the log|had before")


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """The URI of an empty database on a server of this test's own."""
    found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if found is None:
        pytest.fail("PostgreSQL is not installed: make postgres")
    programs, folder = Path(found).parent, tmp_path / "postgres"
    folder.mkdir()
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
        for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            parent.chmod(parent.stat().st_mode | 0o011)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, *arguments], user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert done.returncode == 0, done.stderr.decode()

    call("initdb", "-D", "data", "-U", "zfleet", "-A", "trust")
    options = f"-p {port} -h 127.0.0.1 -k {folder}"
    call("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
    try:
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "zfleet", "mlflow")
        yield f"postgresql://zfleet@127.0.0.1:{port}/mlflow"
    finally:
        call("pg_ctl", "-D", "data", "-m", "immediate", "stop")


def _z(writer: int, number: int) -> ZVector:
    values = torch.full((8,), 1.0 + writer + number / 1000)
    return ZVector({"layers.0.mlp": values}, BASE, "f" * 64, "mlp")


def _register(registry: ExpertRegistry, writer: int, number: int) -> ExpertVersion:
    z = _z(writer, number)
    return registry.register("math", z, Provenance.of(z), base_name="lab")


def _write(uri: str, root: Path, writer: int) -> None:
    """Register versions of one expert, and promote and roll back as if nobody else did."""
    registry = ExpertRegistry(uri, root)
    for number in range(EACH):
        version = _register(registry, writer, number)
        # Another process may be faster: that is told, and changes nothing.
        with suppress(Faster):
            if number % 4 == 1:
                _despite_others(partial(promote, registry, version, "champion"))
            if number % 4 == 3:
                _despite_others(partial(rollback, registry, SLUG, "math", "champion"))


class Faster(Exception):
    """Another process moved the alias first."""


def _despite_others(move: Callable[[], object]) -> None:
    try:
        move()
    except RegistryError as error:
        if FASTER.search(error.message):
            raise Faster from error
        raise


def test_eight_processes_write_at_once_and_two_are_killed(postgres: str, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    registry = ExpertRegistry(postgres, root)
    promote(registry, _register(registry, PROCESSES, 0), "champion")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(postgres, root, writer)) for writer in range(PROCESSES)]
    for process in writers:
        process.start()
    for count, process in enumerate(writers[:KILLED], start=1):
        while len(registry.list(SLUG)) < 40 * count:
            assert process.is_alive(), "it ended before it was killed"
            time.sleep(0.2)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [-signal.SIGKILL] * KILLED + [0] * (PROCESSES - KILLED)

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
    registry.aliases(SLUG, "math").repair()
    champion = registry.resolve("math@champion", SLUG)
    assert champion.version == log.state.version_of("champion")
    assert registry.load(champion).digest == champion.z_digest
