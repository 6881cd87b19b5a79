"""The tables of a registry's database: made and changed by one process at a time, and those of this MLflow.

Without this, MLflow's client changes the tables of an older MLflow without asking, and nobody who has that MLflow can
use the registry any more. MLflow also makes tables under a lock in a file, which processes on other machines do not
see: here the lock is in the database.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from zfleet.errors import RegistryError
from zfleet_registry.address import address_of, kind_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

_LOCK = 0x7A666C656574
"""The number of PostgreSQL's lock under which tables are made and changed: "zfleet" in ASCII."""


def check_tables(uri: str, shown: str) -> None:
    """Make the tables of an empty PostgreSQL database, and refuse the tables of another MLflow in any database.

    Args:
        uri: The database.
        shown: Its URI in errors.

    Raises:
        RegistryError: The tables are of another MLflow, or of another program.
    """
    import sqlalchemy

    if kind_of(uri) == "postgresql":
        with alone(uri) as engine:
            prepare(engine, shown)
        return
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    refuse_other_tables(_revision(engine), shown)


def prepare(engine: Engine, shown: str, upgrade: bool = False) -> None:
    """Make the tables of an empty database, or bring older ones to the version of this MLflow. Call it ``alone``.

    Args:
        engine: The database.
        shown: Its URI in errors.
        upgrade: Change the tables of an older MLflow, as ``mlflow db upgrade`` does.

    Raises:
        RegistryError: The tables are of another MLflow, or of another program.
    """
    from mlflow.store.db import utils

    revision = _revision(engine)
    if revision is not None:
        if upgrade and revision in _revisions()[1:]:
            utils._upgrade_db(engine)  # type: ignore[no-untyped-call]
        else:
            refuse_other_tables(revision, shown)
    elif utils._is_empty_database(engine):  # type: ignore[no-untyped-call]
        utils._initialize_tables(engine)  # type: ignore[no-untyped-call]
    else:
        raise RegistryError(
            f"registry {address_of(shown)} cannot be opened: its database has the tables of another program",
            "give the registry a database of its own",
        )


def refuse_other_tables(revision: str | None, shown: str) -> None:
    """Refuse the tables of an older or a newer MLflow.

    Args:
        revision: The revision of the tables; None if the database has none.
        shown: The registry's URI.

    Raises:
        RegistryError: Says which of the two.
    """
    known = _revisions()
    if revision in (None, known[0]):
        return
    message = f"registry {address_of(shown)} cannot be opened: its tables are of"
    if revision in known:
        raise RegistryError(
            f"{message} an older MLflow (revision {revision})",
            "back it up and run `mlflow db upgrade` on it, or use the MLflow that it was made with",
        )
    raise RegistryError(
        f"{message} a newer MLflow (revision {revision})",
        "install the MLflow that it was last used with: `mlflow db upgrade` goes forward only",
    )


@contextmanager
def alone(uri: str) -> Iterator[Engine]:
    """Hold the lock of a PostgreSQL database under which its tables are made and changed; yields an engine for that."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    # The database releases the lock when the connection ends, even if this process is killed. No transaction is open
    # meanwhile, for which some changes of tables would wait.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:number)"), {"number": _LOCK})
        yield engine


@cache
def _revisions() -> tuple[str, ...]:
    """Return the revisions that this MLflow knows, newest first."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    scripts = ScriptDirectory.from_config(utils._get_alembic_config(""))  # type: ignore[no-untyped-call]
    return tuple(script.revision for script in scripts.walk_revisions())


def _revision(engine: Engine) -> str | None:
    from mlflow.store.db import utils

    revision: str | None = utils._get_schema_version(engine)  # type: ignore[no-untyped-call]
    return revision
