"""Drill: a registry on PostgreSQL that eight processes write at once, two of which are killed in the middle.

The server is the system's own, started here (``make postgres`` installs it).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zfleet_registry import ExpertRegistry
from zfleet_registry.fsck import check_registry
from zfleet_registry.log import Entry, verify

pytestmark = pytest.mark.drill

PROCESSES, KILLED, EACH = 8, 2, 100
SLUG = "lab-1a2b3c4d"


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """The URI of an empty database on a server of this test's own."""
    # Debian keeps its programs out of the path.
    found = next(Path("/usr/lib/postgresql").glob("*/bin/initdb"), None) or shutil.which("initdb")
    if found is None:
        pytest.fail("PostgreSQL is not installed: make postgres")
    programs, folder = Path(found).resolve().parent, tmp_path / "postgres"
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


def test_eight_processes_write_at_once_and_two_are_killed(postgres: str, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    registry = ExpertRegistry(postgres, root)
    script = Path(__file__).with_name("writer_of_versions.py")
    commands = [[sys.executable, str(script), postgres, str(root), str(writer)] for writer in range(PROCESSES + 1)]
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
