"""PostgreSQL for a registry: the system's own server, with its data in a folder, on the loopback alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zfleet.errors import RegistryError
from zfleet_registry.server.processes import LOGS, Process, answers, free_port, start_process
from zfleet_registry.server.secrets import FOLDER, secret, write_private

USER, DATABASE = "zfleet", "mlflow"
_DATA = "postgres"
_START_SECONDS, _STOP_SECONDS = 120, 60


@contextmanager
def postgres(folder: Path) -> Iterator[tuple[str, Process]]:
    """Run PostgreSQL inside the block, with its data in ``folder/postgres``.

    The password is in ``folder/secrets``, and in the variable ``PGPASSFILE`` of this process, which every client reads:
    the URI has none.

    Args:
        folder: The absolute path of the registry's folder.

    Yields:
        The URI of the database, and the server's process.

    Raises:
        RegistryError: PostgreSQL is not installed, or does not start.
    """
    programs = _programs()
    folder.mkdir(parents=True, exist_ok=True)
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        _check_open_to(user, folder)
    data = folder / _DATA
    password = secret(folder, "postgres")
    if not data.exists():
        _make(programs, folder, data, password, user)
    elif (
        subprocess.run([programs / "pg_ctl", "-D", data, "status"], user=user, cwd="/", capture_output=True).returncode
        == 0
    ):
        # Left by a zfleet that was killed.
        _call([programs / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop"], folder, user)
    port = free_port()
    # No socket in a folder: the path of one may have 107 characters at most.
    command: list[str | Path] = [programs / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", ""]
    process = start_process("postgres", command, folder, user=user, stop_signal=signal.SIGINT)
    before = os.environ.get("PGPASSFILE")
    try:
        os.environ["PGPASSFILE"] = str(write_private(folder / FOLDER / "pgpass", f"127.0.0.1:*:*:{USER}:{password}\n"))
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        process.wait_for(lambda: answers("127.0.0.1", port) and not subprocess.run(ready).returncode, _START_SECONDS)
        _make_database(port)
        yield f"postgresql+psycopg://{USER}@127.0.0.1:{port}/{DATABASE}", process
    finally:
        process.stop(_STOP_SECONDS)
        if before is None:
            os.environ.pop("PGPASSFILE", None)
        else:
            os.environ["PGPASSFILE"] = before


def _programs() -> Path:
    # Debian keeps its programs out of the path, in a folder for each release.
    found = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None) or shutil.which("initdb")
    if found is None:
        raise RegistryError(
            "PostgreSQL is not installed: there is no initdb",
            "install it (make postgres, or the system's package postgresql), or give --database URI",
        )
    return Path(found).resolve().parent


def _make(programs: Path, folder: Path, data: Path, password: str, user: str | None) -> None:
    """Make the server's data in another folder and rename it, so that a kill never leaves half of it."""
    home = folder / f".{_DATA}.new"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    file = write_private(home / "password", password)
    if user is not None:
        for path in (home, file):
            shutil.chown(path, user)
    options: list[str | Path] = ["-U", USER, "-A", "scram-sha-256", "--pwfile", file, "-E", "UTF8", "--locale=C.UTF-8"]
    _call([programs / "initdb", "-D", home / "data", *options], folder, user)
    file.unlink()
    (home / "data").rename(data)
    home.rmdir()


def _check_open_to(user: str, folder: Path) -> None:
    """Refuse a folder that another user cannot reach, because a folder above it is closed."""
    closed = next((path for path in (folder, *folder.parents) if not path.stat().st_mode & 0o001), None)
    if closed is not None:
        raise RegistryError(
            f"PostgreSQL does not run as root, and user {user!r} cannot reach {folder}: {closed} is closed",
            f"choose another folder, such as /var/lib/zfleet, or chmod o+x {closed}",
        )


def _make_database(port: int) -> None:
    import psycopg

    with psycopg.connect(f"postgresql://{USER}@127.0.0.1:{port}/postgres", autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone():
            connection.execute(f'CREATE DATABASE "{DATABASE}"')


def _call(command: list[str | Path], folder: Path, user: str | None) -> None:
    done = subprocess.run([str(part) for part in command], user=user, cwd="/", capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["it printed nothing"]
        raise RegistryError(f"{Path(command[0]).name} failed: {lines[0]}", f"see {folder / LOGS / 'postgres.log'}")
