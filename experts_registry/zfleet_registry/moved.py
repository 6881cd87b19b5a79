"""A registry that was moved or copied: MLflow records where artifacts lie by absolute paths, which follow it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from zfleet_registry.sqlite import ARTIFACTS, WAIT_SECONDS, artifacts_of, is_there, open_database

_RUNS = "experiment_id = :experiment"
_THEIRS = f"run_id IN (SELECT run_uuid FROM runs WHERE {_RUNS})"
_COLUMNS = (
    ("runs", "artifact_uri", _RUNS),
    ("model_versions", "source", _THEIRS),
    ("model_versions", "storage_location", _THEIRS),
)
"""Tables, their columns of absolute places, and which rows are an experiment's."""


def follow(file: Path) -> None:
    """Let the records of a registry name its artifacts where they are now: beside its database.

    Otherwise a moved registry would not find them and write new ones to the old place, and a copy would share, and
    with MLflow's own tools delete, those of its original. Experiments whose files did not come along stay as they are.

    Args:
        file: The database, absolute.

    Raises:
        sqlite3.Error: It cannot be written.
    """
    here = artifacts_of(file)
    with closing(open_database(file, WAIT_SECONDS)) as database:
        found = database.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
        moved = [(experiment, old) for experiment, old in found if _is_elsewhere(old, here)]
        if not moved:
            return
        database.execute("BEGIN IMMEDIATE")
        for experiment, old in moved:
            runs = database.execute(f"SELECT run_uuid FROM runs WHERE {_RUNS}", {"experiment": experiment})
            if any(is_there(Path(old, run)) and not is_there(here / run) for (run,) in runs):
                continue
            values = {"here": str(here), "old": old, "experiment": experiment}
            database.execute(f"UPDATE experiments SET artifact_location = :here WHERE {_RUNS}", values)
            for table, column, rows in _COLUMNS:
                database.execute(
                    f"UPDATE {table} SET {column} = :here || substr({column}, length(:old) + 1) "
                    f"WHERE {rows} AND substr({column}, 1, length(:old) + 1) = :old || '/'",
                    values,
                )
        database.execute("COMMIT")


def _is_elsewhere(location: str | None, here: Path) -> bool:
    """Whether an experiment is one of ours, with its artifacts beside a database at another place.

    The artifacts of MLflow's own experiments lie in a folder named by the experiment's id.
    """
    ours = location is not None and location.startswith("/") and location.endswith(f"/{ARTIFACTS}")
    return ours and location != str(here)
