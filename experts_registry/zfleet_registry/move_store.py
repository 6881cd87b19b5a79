"""Tell a registry that its artifacts were moved: change the beginning of the places in its records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zfleet.errors import RegistryError
from zfleet_registry import sqlite
from zfleet_registry.address import SERVERS, SQLITE, address_of, kind_of, sqlite_file
from zfleet_registry.connect import connect
from zfleet_registry.translate import library_errors, reason_of

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.engine import Connection

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_SHOWN = 5


def move_store(uri: str, old: str, new: str) -> int:
    """Change the places that begin with ``old`` in the records of a registry, all or none. The files were moved before.

    Args:
        uri: The registry's database. A tracking server's own is needed, because it changes no such records.
        old: What the places begin with: a folder, or ``s3://bucket/folder``.
        new: What they begin with from now on.

    Returns:
        The number of records that were changed.

    Raises:
        RegistryError: The URI is a server's, no place begins with ``old``, or the newest artifact is not in ``new``.
        RegistryUnreachable: The database does not answer.
    """
    import sqlalchemy

    if kind_of(uri) in SERVERS:
        raise RegistryError(
            f"registry {address_of(uri)} is a server, which does not change the places of its artifacts",
            "give the server's own database: --registry postgresql://...",
        )
    connect(uri, Path(), reading=True)
    old, new = _normal(old), _normal(new)
    target = sqlite.client_uri(sqlite_file(uri).absolute()) if kind_of(uri) == SQLITE else uri
    engine = sqlalchemy.create_engine(target, poolclass=sqlalchemy.NullPool)
    try:
        with engine.begin() as database:
            changed = sum(_change(database, table, column, old, new) for table, column in _COLUMNS)
            if not changed:
                raise _nothing(database, uri, old)
            _check_newest(database, new)
    except library_errors() as error:
        raise RegistryError(
            f"the records of {address_of(uri)} cannot be changed: {reason_of(error, uri)}", "check the permissions"
        ) from None
    return changed


def _change(database: Connection, table: str, column: str, old: str, new: str) -> int:
    import sqlalchemy

    place: ColumnElement[str] = sqlalchemy.column(column, sqlalchemy.String)
    # Not LIKE, for which _ and % in a folder's name are wildcards.
    below = sqlalchemy.func.substr(place, 1, len(old) + 1) == f"{old}/"
    rest = sqlalchemy.func.substr(place, len(old) + 1, type_=sqlalchemy.String)
    change = sqlalchemy.update(sqlalchemy.table(table, place)).where((place == old) | below)  # type: ignore[arg-type]
    return database.execute(change.values({column: sqlalchemy.literal(new) + rest})).rowcount


def _check_newest(database: Connection, new: str) -> None:
    """Check that the newest version that is now in the new place has its file there."""
    import sqlalchemy
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    moved = "substr(source, 1, :length) = :below"
    text = f"SELECT source FROM model_versions WHERE {moved} ORDER BY creation_time DESC LIMIT 1"
    newest = database.execute(sqlalchemy.text(text), {"length": len(new) + 1, "below": f"{new}/"}).scalar()
    if newest is None:
        return
    try:
        files = get_artifact_repository(str(newest)).list_artifacts()
    except library_errors(OSError) as error:
        raise _not_there(str(newest), f": {reason_of(error, str(newest))}") from None
    if not files:
        raise _not_there(str(newest), "")


def _not_there(place: str, reason: str) -> RegistryError:
    return RegistryError(
        f"the newest artifact is not in {place}{reason}", "move the files first, then tell the registry where they are"
    )


def _nothing(database: Connection, uri: str, old: str) -> RegistryError:
    import sqlalchemy

    text = sqlalchemy.text("SELECT DISTINCT artifact_location FROM experiments ORDER BY 1")
    places = [str(place) for (place,) in database.execute(text)]
    more = ", ..." if len(places) > _SHOWN else ""
    return RegistryError(
        f"no artifact of {address_of(uri)} is in {old}", f"its artifacts are in {', '.join(places[:_SHOWN])}{more}"
    )


def _normal(place: str) -> str:
    """Return a place without a slash at its end; a folder as an absolute path, as MLflow records it."""
    return place.rstrip("/") if "://" in place else str(Path(place).expanduser().absolute())
