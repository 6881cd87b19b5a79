"""Reaching MLflow: quickly or not at all, quietly, and with errors that say what to do."""

from __future__ import annotations

import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from zfleet.errors import RegistryError, RegistryUnreachable
from zfleet_registry.address import SERVERS, SQLITE, address_of, check_uri, kind_of, redact, sqlite_file, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROBE_SECONDS = 3
_LOCK_SECONDS = 120
_PORTS = {"postgresql": 5432, "mysql": 3306}
_DRIVERS = {"postgresql": "psycopg2-binary", "mysql": "pymysql"}

# Defaults only: whoever sets one of these decides. MLflow would retry an unreachable server for four
# minutes, report usage to its makers, and print run URLs, with the password in them, after each run.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
# The database module logs every error that it raises as well, with the statement and its values.
_LOGGERS = {
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,
    "mlflow.store.model_registry.sqlalchemy_store": logging.WARNING,
}


@dataclass(frozen=True)
class Connection:
    """One registry, reached.

    Attributes:
        address: What messages call it: its URI without user, password and query.
        client: MLflow's client, bound to this registry; several threads may use it.
        artifacts: Where the artifacts of new experiments go; None where the server decides.
    """

    address: str
    client: MlflowClient
    artifacts: str | None
    _uri: str = field(repr=False)

    def probe(self) -> None:
        """Ask whether it still answers.

        Raises:
            RegistryUnreachable: It does not, within a few seconds.
        """
        _probe(self._uri)

    def reason(self, error: Exception) -> str:
        """What a library's error says, on one line and without secrets."""
        return _reason(error, self._uri)

    @contextmanager
    def answering(self, doing: str) -> Iterator[None]:
        """Turn what MLflow and its libraries raise while ``doing`` into errors of ours, without secrets.

        Raises:
            RegistryUnreachable: The server or database stopped answering.
            RegistryError: It answered with a refusal.
        """
        import requests
        import sqlalchemy.exc
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, sqlalchemy.exc.SQLAlchemyError, requests.RequestException) as error:
            # No cause is chained: its text may hold the password.
            raise self._translated(error, doing) from None

    def _translated(self, error: Exception, doing: str) -> RegistryError:
        import requests

        text = _reason(error, self._uri)
        silent = (
            isinstance(error, requests.ConnectionError | requests.Timeout)
            or getattr(error, "error_code", None) == "TEMPORARILY_UNAVAILABLE"
            or str(error).startswith("API request")
        )
        if silent:
            return RegistryUnreachable(f"{doing}: the registry {self.address} does not answer: {text}", "try again")
        return RegistryError(
            f"{doing}: the registry {self.address} refused: {text}", "check the request and the rights"
        )


def connect(uri: str | None, root: Path) -> Connection:
    """Reach a registry, and prepare a local one that is new.

    Args:
        uri: A tracking server or database; None for sqlite and local artifacts under ``root``.
        root: Where a local registry lives; with a database URI, where its artifacts go.

    Raises:
        RegistryUnreachable: No answer within a few seconds; the address is named, without its secrets.
        RegistryError: A URI that cannot be used, a missing driver, or a schema of another MLflow.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    root = root.expanduser().absolute()
    uri = sqlite_uri(root / "mlflow.db") if uri is None else uri
    check_uri(uri)
    artifacts = None if kind_of(uri) in SERVERS else str(root / "artifacts")
    if kind_of(uri) == SQLITE:
        file = sqlite_file(uri)
        uri = sqlite_uri(file)
        with _locked(file):
            _initialise(file.absolute())
            return Connection(address_of(uri), _client(uri), artifacts, uri)
    _probe(uri)
    return Connection(address_of(uri), _client(uri), artifacts, uri)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    _quiet()
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        raise RegistryError(
            f"registry {address_of(uri)} cannot be opened: {_reason(error, uri)}",
            "use the MLflow version it was made with, or back it up and run `mlflow db upgrade` on it",
        ) from None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process at a time: several that initialise a fresh database at once would leave it broken."""
    try:
        file.absolute().parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{file.absolute()}.lock", timeout=_LOCK_SECONDS)
        lock.acquire()
    except Timeout:
        raise RegistryUnreachable(
            f"registry {file} is locked by another process", f"wait for it, or end what holds {file}.lock"
        ) from None
    except OSError as error:
        raise RegistryUnreachable(
            f"registry {file} cannot be opened: {error}", "check the path and its rights"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _initialise(file: Path) -> None:
    """Create the tables beside ``file`` and rename, so that a kill never leaves half a registry."""
    if file.exists():
        _check_sqlite(file)
        return
    from mlflow.store.db import utils

    _quiet()
    fresh = file.with_name(f".{file.name}.fresh")
    fresh.unlink(missing_ok=True)
    engine = utils.create_sqlalchemy_engine(sqlite_uri(fresh))  # type: ignore[no-untyped-call]
    try:
        utils._initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()
    fresh.replace(file)


def _check_sqlite(file: Path) -> None:
    # MLflow would retry a file that is no database for more than a minute.
    try:
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise RegistryError(
            f"registry {file} is no sqlite database that can be read: {error}", "restore it from a backup, or move it"
        ) from error


def _probe(uri: str) -> None:
    if kind_of(uri) in SERVERS:
        _probe_server(uri)
    elif kind_of(uri) != SQLITE:
        _probe_database(uri)


def _probe_server(uri: str) -> None:
    # MLflow's own request, because it knows the certificates, tokens and proxies in the environment.
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
        answer = http_request(  # type: ignore[no-untyped-call]
            credentials,
            "/health",
            "GET",
            max_retries=0,
            timeout=PROBE_SECONDS,
            raise_on_status=False,
        )
    except MlflowException as error:
        raise _unreachable(uri, _reason(error, uri)) from None
    if answer.status_code != 200:
        raise _unreachable(uri, f"GET /health gave status {answer.status_code}, MLflow gives 200")


def _probe_database(uri: str) -> None:
    import sqlalchemy
    import sqlalchemy.exc

    parts, kind = urlsplit(uri), kind_of(uri)
    try:
        if parts.hostname:
            socket.create_connection((parts.hostname, parts.port or _PORTS[kind]), timeout=PROBE_SECONDS).close()
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": PROBE_SECONDS})
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except ModuleNotFoundError as error:
        raise RegistryError(
            f"registry {address_of(uri)} needs the driver {error.name}", f"pip install {_DRIVERS[kind]}"
        ) from None
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise _unreachable(uri, _reason(error, uri)) from None


def _quiet() -> None:
    # After the import of mlflow, which sets these levels itself.
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)


def _unreachable(uri: str, reason: str) -> RegistryUnreachable:
    return RegistryUnreachable(
        f"registry {address_of(uri)} does not answer: {reason}",
        "start it, check the URI and the network, or leave the URI out to use a local registry",
    )


def _reason(error: Exception, uri: str) -> str:
    """The part of a library's message that people can use."""
    text = redact(str(error), uri).strip() or type(error).__name__
    system = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    if system:
        return system.group(1).strip()
    if "timed out" in text:
        return "timed out"
    return text.splitlines()[0][:300]
