"""Ask within seconds whether a registry answers, before MLflow waits for it for minutes."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from zfleet.errors import RegistryError
from zfleet_registry import sqlite
from zfleet_registry.address import SERVERS, SQLITE, address_of, kind_of, sqlite_file
from zfleet_registry.translate import NOT_MLFLOW, denied, reason_of, system_reason, unreachable

SECONDS = 3
_PORTS = {"postgresql": 5432, "mysql": 3306}
_DRIVERS = {"psycopg": "'zfleet[postgres]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""{module: what pip installs it by}, where the two differ."""


def probe(uri: str, reading: bool) -> None:
    """Check that a registry answers.

    Args:
        uri: Its URI.
        reading: Wait for the locks of a sqlite file only briefly.

    Raises:
        RegistryUnreachable: There is no answer within a few seconds, or not MLflow's.
        AccessDenied: A server does not accept the user.
        RegistryError: The driver of a database is missing.
    """
    if kind_of(uri) == SQLITE:
        sqlite.check(sqlite_file(uri), sqlite.READER_SECONDS if reading else sqlite.WAIT_SECONDS)
    elif kind_of(uri) in SERVERS:
        _probe_server(uri)
    else:
        _probe_database(uri)


def _probe_server(uri: str) -> None:
    # MLflow's own request function uses the certificates, tokens and proxies from the environment.
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
            timeout=SECONDS,
            raise_on_status=False,
        )
    except MlflowException as error:
        raise unreachable(uri, reason_of(error, uri), system_reason(error)) from None
    if answer.status_code in (401, 403):
        raise denied(answer.status_code, "connect", "read", address_of(uri))
    if answer.status_code != 200:
        raise unreachable(uri, f"GET /health gave status {answer.status_code}, but MLflow gives 200")
    # A proxy answers with its login page, and with status 200.
    if answer.text.strip() != "OK":
        text = "GET /health gave a page, but MLflow gives OK: a proxy that wants a login, or another program, answers"
        raise unreachable(uri, text, NOT_MLFLOW)


def _probe_database(uri: str) -> None:
    import sqlalchemy
    import sqlalchemy.exc

    parts, kind = urlsplit(uri), kind_of(uri)
    try:
        if parts.hostname:
            socket.create_connection((parts.hostname, parts.port or _PORTS[kind]), timeout=SECONDS).close()
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": SECONDS})
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except ModuleNotFoundError as error:
        raise RegistryError(
            f"registry {address_of(uri)} needs the driver {error.name}",
            f"pip install {_DRIVERS.get(str(error.name), error.name)}",
        ) from None
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise unreachable(uri, reason_of(error, uri), system_reason(error)) from None
