"""A registry in a sqlite file: asked where it lies, never made by a question, and looked at before each one."""

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
"""How long a question waits for a lock of another process, as MLflow does."""
READER_SECONDS = 0.4
"""How long one of a service waits: its clients wait with it."""
_OPENING_SECONDS = 120
ARTIFACTS = "artifacts"


def artifacts_of(file: Path) -> Path:
    """The folder of a registry's artifacts: beside its database, where that really lies, whatever links lead to it."""
    return Path(os.path.realpath(file)).parent / ARTIFACTS


def was_here(file: Path) -> bool:
    """Whether a registry was in this file before: it left its lock and artifacts. To be asked before ``opened_alone``.

    Artifacts alone may be those of another registry in the same folder, or no registry's at all.
    """
    return is_there(_lock_of(file)) and is_there(artifacts_of(file))


def is_there(path: Path) -> bool:
    """As ``Path.exists``, which raises where this user may not look, in another's home for example."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def client_uri(file: Path) -> str:
    """What MLflow is given: opened by a plain path, a missing file would become an empty database."""
    return f"sqlite+pysqlite:///file:{file}?mode=rw&uri=true"


def open_database(file: Path, seconds: float) -> sqlite3.Connection:
    """Open a database that exists.

    Args:
        file: Absolute.
        seconds: How long to wait for locks.

    Raises:
        sqlite3.Error: It is missing or cannot be opened.
    """
    return sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=seconds, isolation_level=None)


def check(file: Path, seconds: float = WAIT_SECONDS) -> None:
    """See that a registry is there and can be read.

    Args:
        file: Absolute.
        seconds: How long to wait for a lock of another process.

    Raises:
        RegistryUnreachable: The file is missing, empty, damaged, locked or another program's; says which.
    """
    with answering(file), closing(open_database(file, seconds)) as database:
        # The first is in the databases of other programs too: in those MLflow would make its tables.
        database.execute("SELECT 1 FROM alembic_version, experiments LIMIT 1")


@contextmanager
def answering(file: Path) -> Iterator[None]:
    """Turn what sqlite raises inside the block into an error that says what is wrong with the file.

    Raises:
        RegistryUnreachable: It cannot be read or written.
    """
    try:
        yield
    except sqlite3.Error as error:
        reason, remedy = _reason(file, error)
        raise RegistryUnreachable(f"registry {file} does not answer: {reason}", remedy, reason) from error


def create(file: Path) -> None:
    """Make the tables of a new registry beside its file and rename, so that a kill never leaves half of one."""
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
    """One process at a time: several that make a registry at once would leave it broken.

    Raises:
        RegistryUnreachable: Another process holds it for minutes, or its folder cannot be made.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(_lock_of(file)), timeout=_OPENING_SECONDS)
        lock.acquire()
    except Timeout:
        raise RegistryUnreachable(
            f"registry {file} is locked by another process", f"wait for it, or end what holds {_lock_of(file)}"
        ) from None
    except OSError as error:
        raise RegistryUnreachable(
            f"registry {file} cannot be opened: {error}", "check the path and its rights"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _reason(file: Path, error: sqlite3.Error) -> tuple[str, str]:
    """Why a database cannot be read, without its path, and what to do."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if _is_missing(file):
        if was_here(file):
            begin = "move the artifacts beside it away to begin an empty registry"
        else:
            begin = "where there was none, a training makes it"
        return "its file is missing", f"put it back, or restore it from a backup; {begin}"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "its file is locked by another process", "end what holds it, or try again when it has ended"
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return "its file is no sqlite database that can be read", "restore it from a backup, or move it"
    if "no such table" in str(error):
        return "its file holds no registry", "restore it from a backup, or move it and the artifacts beside it away"
    return f"its file cannot be opened: {error}", "check its rights, and those of its folder"


def _is_missing(file: Path) -> bool:
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # nobody may look: its folder's rights forbid it
    return False


def _lock_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.lock")
