"""PostgreSQL from the system's packages (``make postgres`` installs it), on a port of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zfleet.errors import RegistryError
from zfleet_registry.testing.ports import free_port


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """Start a server with an empty database; it ends with the block.

    Args:
        folder: A folder of the caller's own, for the server's files.

    Returns:
        The URI of the database.

    Raises:
        RegistryError: PostgreSQL is not installed, or a program of it failed.
    """
    # Debian keeps its programs out of the path.
    found = next(Path("/usr/lib/postgresql").glob("*/bin/initdb"), None) or shutil.which("initdb")
    if found is None:
        raise RegistryError("PostgreSQL is not installed", "make postgres")
    programs, files = Path(found).resolve().parent, folder / "postgres"
    files.mkdir()
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(files, user)
        for parent in list(files.parents)[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
    port = free_port()

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [programs / program, *arguments], user=user, cwd=files, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if done.returncode != 0:
            raise RegistryError(f"{program} failed: {done.stderr.decode(errors='replace')}", f"look at {files}/log")

    call("initdb", "-D", "data", "-U", "zfleet", "-A", "trust")
    options = f"-p {port} -h 127.0.0.1 -k {files}"
    call("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
    try:
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "zfleet", "mlflow")
        yield f"postgresql://zfleet@127.0.0.1:{port}/mlflow"
    finally:
        call("pg_ctl", "-D", "data", "-m", "immediate", "stop")
