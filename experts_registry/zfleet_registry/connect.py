"""Connect to MLflow within seconds or fail, without noise, and with errors that name a remedy."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zfleet.errors import RegistryError
from zfleet_registry import moved, probe, schema, sqlite, translate
from zfleet_registry.address import SERVERS, SQLITE, address_of, check_uri, kind_of, sqlite_file, sqlite_uri
from zfleet_registry.credentials import check_file
from zfleet_registry.translate import Right

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Defaults only: a variable that is set already keeps its value. Without them, MLflow would retry an unreachable server
# for four minutes, report usage to its makers, and print run URLs, with the password in them, after each run.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
# A service has few threads, which must not wait a minute for a server that is gone.
_READING = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}
_POOL = "MLFLOW_SQLALCHEMYSTORE_POOL"
"""The prefix of MLflow's variables for its database connections."""
# The database module also logs every error that it raises, with the statement and its values.
_LOGGERS = {
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,
    "mlflow.store.model_registry.sqlalchemy_store": logging.WARNING,
}


@dataclass(frozen=True)
class Connection:
    """A connection to a registry.

    Attributes:
        address: The registry's URI without user, password and query, for messages.
        client: MLflow's client for this registry; several threads may use it.
        artifacts: The folder for the artifacts of new experiments; None if the server decides.
        reading: Whether the connection only reads, and waits for locks only briefly.
    """

    address: str
    client: MlflowClient
    artifacts: str | None
    reading: bool
    _uri: str = field(repr=False)

    @property
    def is_server(self) -> bool:
        """Whether the registry is a tracking server, and not a database."""
        return kind_of(self._uri) in SERVERS

    @property
    def is_file(self) -> bool:
        """Whether the registry is a sqlite file."""
        return kind_of(self._uri) == SQLITE

    def probe(self) -> None:
        """Check that the registry still answers.

        Raises:
            RegistryUnreachable: The registry does not answer within a few seconds.
        """
        probe.probe(self._uri, self.reading)

    def local_file(self, run_id: str, path: str) -> Path | None:
        """Return the path of a run's artifact if this registry is a sqlite file, None otherwise.

        The artifacts are beside the file, even if its records name another place, because the registry may be moved.
        """
        if not self.is_file:
            return None
        return sqlite.artifacts_of(sqlite_file(self._uri)) / run_id / "artifacts" / path

    def reason(self, error: Exception) -> str:
        """Return the text of a library's error on one line, without secrets."""
        return translate.reason_of(error, self._uri)

    @contextmanager
    def answering(self, doing: str, right: Right = "read") -> Iterator[None]:
        """Turn the errors of MLflow and its libraries inside the block into ours, without secrets.

        Args:
            doing: What the block does, for the message.
            right: What the block needs a right to, for the message.

        Raises:
            RegistryUnreachable: The server or database does not answer.
            AccessDenied: The server does not accept the user, or the user lacks the right.
            RegistryError: The server or database refused the request.
        """
        if self.is_file:
            self.probe()
        try:
            yield
        except translate.library_errors() as error:
            # The cause is not chained, because its text may contain the password.
            raise translate.translated(error, doing, right, self._uri) from None


def connect(uri: str | None, root: Path, reading: bool = False) -> Connection:
    """Connect to a registry. A new local registry is created.

    Args:
        uri: A tracking server or database; None for sqlite and local artifacts under ``root``.
        root: The folder of a local registry; for a database server, the folder of its artifacts. The artifacts of a
            sqlite file are beside it.
        reading: Only read: do not create a missing sqlite file, and wait for a locked one only briefly.

    Raises:
        RegistryUnreachable: There is no answer within a few seconds; the address is named, without its secrets.
        AccessDenied: A file with a password can be read by others.
        RegistryError: The URI cannot be used, a driver is missing, or the schema is that of another MLflow.
    """
    for name, value in (_ENVIRONMENT | (_READING if reading else {})).items():
        os.environ.setdefault(name, value)
    root = root.expanduser().absolute()
    uri = sqlite_uri(root / "mlflow.db") if uri is None else uri
    check_uri(uri)
    if kind_of(uri) == SQLITE:
        file = sqlite_file(uri).expanduser().absolute()
        return _open_sqlite(file, sqlite_uri(file), reading)
    if kind_of(uri) in SERVERS:
        check_file()
    probe.probe(uri, reading)
    artifacts = None if kind_of(uri) in SERVERS else str(root / sqlite.ARTIFACTS)
    return Connection(address_of(uri), _client(uri, uri), artifacts, reading, uri)


def _open_sqlite(file: Path, uri: str, reading: bool) -> Connection:
    # A pooled connection would go on using a file that was deleted or replaced.
    if not any(name.startswith(_POOL) for name in os.environ):
        os.environ[f"{_POOL}CLASS"] = "NullPool"
    artifacts = str(sqlite.artifacts_of(file))
    if reading:
        probe.probe(uri, reading)
        return Connection(address_of(uri), _client(sqlite.client_uri(file), uri), artifacts, reading, uri)
    was_here = sqlite.was_here(file)
    with sqlite.opened_alone(file):
        # If a registry was here, its database was moved away or lost, and a new one would hide that.
        if not file.exists() and not was_here:
            _quiet()
            sqlite.create(file)
        probe.probe(uri, reading)
        # Before `follow` changes any table, because the client refuses the tables of another MLflow.
        client = _client(sqlite.client_uri(file), uri)
        with sqlite.answering(file):
            moved.follow(file)
        return Connection(address_of(uri), client, artifacts, reading, uri)


def _client(target: str, uri: str) -> MlflowClient:
    """Make MLflow's client for ``target``; errors name ``uri``."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    _quiet()
    try:
        if kind_of(uri) not in SERVERS:
            schema.check_tables(target, uri)
        return MlflowClient(tracking_uri=target, registry_uri=target)
    except MlflowException as error:
        raise RegistryError(
            f"registry {address_of(uri)} cannot be opened: {translate.reason_of(error, uri)}",
            "check the permissions of its user, or restore it from a backup",
        ) from None


def _quiet() -> None:
    # Called after mlflow is imported, because the import sets these levels.
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)
