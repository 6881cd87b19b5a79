"""Drill: a registry on PostgreSQL that eight processes write at once, two of which are killed in the middle.

The server is the system's own, started here (``make postgres`` installs it).
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zfleet_registry import ExpertRegistry
from zfleet_registry.log import Entry, verify
from zfleet_registry.server.postgres import postgres

pytestmark = pytest.mark.drill

PROCESSES, KILLED, EACH = 8, 2, 100
SLUG = "lab-1a2b3c4d"


@pytest.fixture
def database(open_folder: Path) -> Iterator[str]:
    """The URI of an empty database on a server of this test's own."""
    with postgres(open_folder) as (uri, _):
        yield uri.replace("+psycopg", "")


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
    registry.aliases(SLUG, "math").repair()
    champion = registry.resolve("math@champion", SLUG)
    assert champion.version == log.state.version_of("champion")
    assert registry.load(champion).digest == champion.z_digest
