"""A registry in a sqlite file. The file is checked before each request, and no request creates it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from zfleet.errors import RegistryUnreachable
from zfleet_registry.address import sqlite_uri

WAIT_SECONDS = 20.0
"""How long a request waits for a lock of another process; MLflow's own limit."""
READER_SECONDS = 0.4
"""How long a service's request waits for a lock, because its clients wait too."""
_OPENING_SECONDS = 120
ARTIFACTS = "artifacts"


def artifacts_of(file: Path) -> Path:
    """Return the folder of a registry's artifacts: beside its database, with all links resolved."""
    return Path(os.path.realpath(file)).parent / ARTIFACTS


def was_here(file: Path) -> bool:
    """Return whether this file was a registry before, whose lock and artifacts remain. Call before ``opened_alone``.

    Artifacts alone do not tell: they may belong to another registry in the same folder, or to none.
    """
    return exists(_lock_of(file)) and exists(artifacts_of(file))


def exists(path: Path) -> bool:
    """Return whether a path exists; False where ``Path.exists`` raises, in another user's home for example."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def client_uri(file: Path) -> str:
    """Return the URI for MLflow. It opens existing files only: by a plain path, a missing file would be created."""
    return f"sqlite+pysqlite:///file:{file}?mode=rw&uri=true"


def open_database(file: Path, seconds: float) -> sqlite3.Connection:
    """Open a database that exists.

    Args:
        file: The absolute path of the database.
        seconds: How long to wait for locks.

    Raises:
        sqlite3.Error: The database is missing or cannot be opened.
    """
    return sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=seconds, isolation_level=None)


def check(file: Path, seconds: float = WAIT_SECONDS) -> None:
    """Check that a registry exists and can be read.

    Args:
        file: The absolute path of the database.
        seconds: How long to wait for a lock of another process.

    Raises:
        RegistryUnreachable: The file is missing, empty, damaged, locked or another program's; says which.
    """
    with answering(file), closing(open_database(file, seconds)) as database:
        # Other programs have the first table too. Without the second, MLflow would create its tables in their database.
        database.execute("SELECT 1 FROM alembic_version, experiments LIMIT 1")


@contextmanager
def answering(file: Path) -> Iterator[None]:
    """Turn sqlite's errors inside the block into errors that say what is wrong with the file.

    Raises:
        RegistryUnreachable: The file cannot be read or written.
    """
    try:
        yield
    except sqlite3.Error as error:
        reason, remedy = _reason(file, error)
        raise RegistryUnreachable(f"registry {file} does not answer: {reason}", remedy, reason) from error


def create(file: Path) -> None:
    """Create a new registry in a temporary file and rename it, so that a kill never leaves half a registry."""
    from mlflow.store.db import utils

    fresh = file.with_name(f".{file.name}.fresh")
    fresh.unlink(missing_ok=True)
    engine = utils.create_sqlalchemy_engine(sqlite_uri(fresh))  # type: ignore[no-untyped-call]
    try:
        utils._initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()
    fresh.replace(file)


@contextmanager
def opened_alone(file: Path) -> Iterator[None]:
    """Hold the registry's lock, because several processes that create a registry at once would break it.

    Raises:
        RegistryUnreachable: Another process holds the lock for minutes, or the folder cannot be created.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(_lock_of(file)), timeout=_OPENING_SECONDS)
        lock.acquire()
    except Timeout:
        raise RegistryUnreachable(
            f"registry {file} is locked by another process",
            f"wait for it, or end the process that holds {_lock_of(file)}",
        ) from None
    except OSError as error:
        raise RegistryUnreachable(
            f"registry {file} cannot be opened: {error}", "check the path and its permissions"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _reason(file: Path, error: sqlite3.Error) -> tuple[str, str]:
    """Return why a database cannot be read, without its path, and the remedy."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if _is_missing(file):
        if was_here(file):
            new = "move the artifacts beside it away to start an empty registry"
        else:
            new = "if there was none, a training creates it"
        return "its file is missing", f"put it back, or restore it from a backup; {new}"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "its file is locked by another process", "end that process, or try again when it has ended"
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return "its file is not a readable sqlite database", "restore it from a backup, or move it"
    if "no such table" in str(error):
        return "its file is not a registry", "restore it from a backup, or move it and the artifacts beside it away"
    return f"its file cannot be opened: {error}", "check its permissions, and those of its folder"


def _is_missing(file: Path) -> bool:
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # The folder's permissions do not allow to look.
    return False


def _lock_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.lock")
