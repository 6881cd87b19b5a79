"""Store a file among the artifacts of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from zfleet.errors import RegistryError
from zfleet.files import write_atomic
from zfleet_registry.connect import Connection


def store_file(connection: Connection, run_id: str, path: str, data: bytes) -> None:
    """Store a file, whole or not at all.

    Args:
        connection: The registry.
        run_id: The run.
        path: Within the run's artifacts.
        data: The file.

    Raises:
        RegistryError: The file of a local registry cannot be written, for example because the disk is full.
    """
    local = connection.local_file(run_id, path)
    if local is None:
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / name
            file.write_bytes(data)
            connection.client.log_artifact(run_id, str(file), folder or None)
        return
    # Written without MLflow, because MLflow caches the place of a run's artifacts, and a registry may be moved.
    try:
        write_atomic(local, data)
    except OSError as error:
        raise RegistryError(
            f"{local} cannot be written: {error.strerror or error}", "free disk space, or correct the permissions"
        ) from error
