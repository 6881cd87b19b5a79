"""The folder where a cluster on this machine keeps its sockets, its logs, and objects that do not fit into memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

from zfleet.errors import ClusterError

_TOO_LONG = re.compile(r"AF_UNIX path length cannot exceed (?P<most>\d+) bytes: (?P<path>.*)")
"""Ray's error if the path of a socket is longer than the system allows."""

_ROOM = "with room for Ray's logs and for objects that do not fit into memory"


def check_temporary_folder() -> None:
    """Refuse a relative path: it is another folder for each of Ray's processes, and they would wait for each other.

    Raises:
        ClusterError: Names the variable with the path.
    """
    name, folder = _variable()
    if not Path(folder).is_absolute():
        raise ClusterError(
            f"{name} is {folder!r}, which is no absolute path", f"set it to a folder, {_ROOM}: {name}=/tmp"
        )


def folder_error(error: Exception) -> ClusterError | None:
    """Explain an error at Ray's start that is about the folder; None if it is about something else."""
    name, folder = _variable()
    if too_long := _TOO_LONG.search(str(error)):
        length, most = len(os.fsencode(too_long["path"])), int(too_long["most"])
        return ClusterError(
            f"Ray does not start on this machine: {name} is {folder!r}, and the path of Ray's socket below it would "
            f"have {length} bytes, where the system takes {most}",
            f"set a {name} that is shorter by {length - most} bytes or more, {_ROOM}: {name}=/tmp",
        )
    if isinstance(error, OSError) and str(error.filename).startswith(folder):
        return ClusterError(
            f"Ray does not start on this machine: {name} is {folder!r}, and {error.filename} cannot be made: "
            f"{error.strerror}",
            f"set {name} to a folder that can be written, {_ROOM}: {name}=/tmp",
        )
    return None


def _variable() -> tuple[str, str]:
    """Return the name and the value of the variable that Ray uses."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    return name, os.environ.get(name, "/tmp")
