"""PostgreSQL from the system's packages (``make postgres`` installs it), on a port of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zfleet.errors import RegistryError
from zfleet_registry.testing.ports import free_port


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server with an empty database; both end with the block.

    Returns:
        The URI of the database.

    Raises:
        RegistryError: PostgreSQL is not installed, or a program of it failed.
    """
    # Debian keeps its programs out of the path.
    found = next(Path("/usr/lib/postgresql").glob("*/bin/initdb"), None) or shutil.which("initdb")
    if found is None:
        raise RegistryError("PostgreSQL is not installed", "make postgres")
    programs, files = Path(found).resolve().parent, Path(tempfile.mkdtemp(prefix="postgres-"))
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(files, user)
    port = free_port()

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, *arguments], user=user, cwd=files, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace")
            raise RegistryError(f"{program} of PostgreSQL failed: {said}", "correct what it says")

    try:
        call("initdb", "-D", "data", "-U", "zfleet", "-A", "trust")
        options = f"-p {port} -h 127.0.0.1 -k {files}"
        call("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
        try:
            call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "zfleet", "mlflow")
            yield f"postgresql://zfleet@127.0.0.1:{port}/mlflow"
        finally:
            call("pg_ctl", "-D", "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(files, ignore_errors=True)
