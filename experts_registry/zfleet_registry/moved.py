"""Correct the records of a registry that was moved or copied: MLflow stores absolute paths of artifacts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from zfleet_registry.sqlite import ARTIFACTS, WAIT_SECONDS, artifacts_of, exists, open_database

_RUNS = "experiment_id = :experiment"
_THEIRS = f"run_id IN (SELECT run_uuid FROM runs WHERE {_RUNS})"
_COLUMNS = (
    ("runs", "artifact_uri", _RUNS),
    ("model_versions", "source", _THEIRS),
    ("model_versions", "storage_location", _THEIRS),
)
"""The tables with absolute paths, their columns, and the condition for the rows of an experiment."""


def follow(file: Path) -> None:
    """Change the paths of artifacts in a registry's records to their present place, beside the database.

    Without this, a moved registry would not find its artifacts and would write new ones to the old place. A copy would
    share the artifacts of its original, and MLflow's tools could delete them. Experiments whose artifacts were not
    moved along keep their paths.

    Args:
        file: The absolute path of the database.

    Raises:
        sqlite3.Error: The database cannot be written.
    """
    here = artifacts_of(file)
    with closing(open_database(file, WAIT_SECONDS)) as database:
        experiments = database.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
        moved = [(experiment, old) for experiment, old in experiments if _is_elsewhere(old, here)]
        if not moved:
            return
        database.execute("BEGIN IMMEDIATE")
        for experiment, old in moved:
            runs = database.execute(f"SELECT run_uuid FROM runs WHERE {_RUNS}", {"experiment": experiment})
            if any(exists(Path(old, run)) and not exists(here / run) for (run,) in runs):
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
    """Return whether an experiment is one of ours whose records place its artifacts beside another database.

    The artifacts of MLflow's own experiments are in a folder named by the experiment's id.
    """
    ours = location is not None and location.startswith("/") and location.endswith(f"/{ARTIFACTS}")
    return ours and location != str(here)
