"""The database of keys and usage: a sqlite file, or PostgreSQL for several machines or operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sql
from filelock import FileLock, Timeout
from sqlalchemy.dialects import postgresql, sqlite

from zfleet.errors import KeysError, RegistryError
from zfleet_registry.address import SQLITE, address_of, kind_of, redact, sqlite_file, sqlite_uri

_WAIT_SECONDS = 5
"""How long a statement waits for the lock of another process, and a connection for the server."""
_OPENING_SECONDS = 60
_ADVISORY_LOCK = 0x7A666C6565740001
"""The number of PostgreSQL's lock that processes hold while they create the tables."""
_DRIVER = "postgresql+psycopg"
_REMEDY = "give a file, sqlite:///file or postgresql://user:password@host/database"
_AWAY = "start the database, or check its address, the network and the permissions"

metadata = sql.MetaData()
keys = sql.Table(
    "zfleet_keys",
    metadata,
    sql.Column("id", sql.String(12), primary_key=True),
    sql.Column("name", sql.String(100), nullable=False),
    sql.Column("settings", sql.Text, nullable=False),
    sql.Column("created", sql.Double, nullable=False),
    sql.Column("expires", sql.Double),
    sql.Column("revoked", sql.Double),
    sql.Column("secret_hash", sql.String(200), nullable=False),
    sql.Column("old_hash", sql.String(200)),
    sql.Column("old_until", sql.Double),
)
changes = sql.Table(
    "zfleet_key_changes",
    metadata,
    sql.Column("only", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("number", sql.BigInteger, nullable=False),
)
"""One row: how often keys were changed. Gateways read it each second, and the keys only after a change."""
usage = sql.Table(
    "zfleet_usage",
    metadata,
    sql.Column("day", sql.String(10), primary_key=True),
    sql.Column("key_id", sql.String(12), primary_key=True),
    sql.Column("expert", sql.String(200), primary_key=True),
    sql.Column("requests", sql.BigInteger, nullable=False),
    sql.Column("prompt_tokens", sql.BigInteger, nullable=False),
    sql.Column("completion_tokens", sql.BigInteger, nullable=False),
    sql.Column("first_pass_tokens", sql.BigInteger, nullable=False),
)


class Database:
    """Connections to a database whose tables exist.

    Args:
        place: A file, or a URI: ``sqlite:///file`` or ``postgresql://...``.

    Attributes:
        address: The place without user and password, for messages.
    """

    def __init__(self, place: str) -> None:
        """Create the file and the tables if they do not exist; several processes may do so at once.

        Raises:
            KeysError: The place cannot be used; says why, without a password.
        """
        self._uri = database_uri(place)
        self.address = address_of(self._uri)
        local = kind_of(self._uri) == SQLITE
        try:
            wait = {"timeout": _WAIT_SECONDS} if local else {"connect_timeout": _WAIT_SECONDS}
            # The scheme alone names whatever driver SQLAlchemy prefers.
            uri = self._uri if local else f"{_DRIVER}://{self._uri.partition('://')[2]}"
            self._engine = sql.create_engine(uri, connect_args=wait, pool_pre_ping=not local)
        except ModuleNotFoundError as error:
            message = f"keys in {self.address} need the driver {error.name}"
            raise KeysError(message, "pip install 'zfleet[postgres]'") from None
        except sql.exc.ArgumentError:
            raise KeysError(f"the URI of keys {self.address} cannot be read", _REMEDY) from None
        if local:
            self._create_file(sqlite_file(self._uri))
        else:
            with self.transaction() as connection:
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
                metadata.create_all(connection)

    @contextmanager
    def transaction(self) -> Iterator[sql.Connection]:
        """Open a transaction, which is committed at the end of the block.

        Raises:
            KeysError: The database does not answer, or refuses; says why, without a password.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except sql.exc.SQLAlchemyError as error:
            # The cause is not chained: it may show the password.
            reason = redact(str(getattr(error, "orig", None) or error), self._uri).strip().splitlines()[0][:300]
            raise KeysError(f"the keys in {self.address} cannot be used: {reason}", _AWAY) from None

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _create_file(self, file: Path) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_name(f".{file.name}.lock"), timeout=_OPENING_SECONDS):
                # Hashes of secrets are nobody else's business.
                file.touch(mode=0o600)
                with self.transaction() as connection:
                    metadata.create_all(connection)
        except (OSError, Timeout) as error:
            raise KeysError(f"the file of keys {file} cannot be opened: {error}", _REMEDY) from None


def insert(connection: sql.Connection, table: sql.Table) -> sqlite.Insert | postgresql.Insert:
    """Begin an INSERT that may have an ON CONFLICT, which both databases have and SQLAlchemy keeps apart."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def database_uri(place: str) -> str:
    """Return the URI of a database; that of a file has its absolute path.

    Raises:
        KeysError: It is neither a file nor a URI of sqlite or PostgreSQL.
    """
    try:
        if "://" not in place:
            return sqlite_uri(Path(place))
        if kind_of(place) == SQLITE:
            return sqlite_uri(sqlite_file(place))
    except RegistryError as error:
        raise KeysError(f"keys are not kept there: {error.message}", _REMEDY) from None
    if kind_of(place) != "postgresql" or address_of(place).endswith("***"):
        raise KeysError(f"keys cannot be kept in {address_of(place)!r}", _REMEDY)
    return place
