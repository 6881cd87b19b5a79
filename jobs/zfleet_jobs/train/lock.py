"""One command at a time writes a run."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from zfleet.errors import JobError
from zfleet_jobs.train.storage import Storage, writing

FILE = "lock"
log = logging.getLogger(__name__)


@contextmanager
def only_writer(storage: Storage, run: str) -> Iterator[None]:
    """Be the only command that writes to a run, inside the block.

    The system takes the lock from a process that dies, however it dies.

    Args:
        storage: The run's folder. Under a URI nothing can be locked: a warning says so.
        run: Its name.

    Raises:
        JobError: Another command writes to it; says which process on which machine.
    """
    if storage.local is None:
        log.warning("%s is no folder: whether another command writes to run %s is not checked", storage.place, run)
        yield
        return
    with writing(storage.place):
        storage.local.mkdir(parents=True, exist_ok=True)
        file = (storage.local / FILE).open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _held(file.read(), storage, run) from None
        except OSError as error:
            raise JobError(
                f"{storage.local / FILE} cannot be locked: {error.strerror}",
                "keep `storage` on a file system with locks, or give a URI",
            ) from error
        file.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with writing(storage.place):
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
            file.flush()
        yield


def _held(holder: str, storage: Storage, run: str) -> JobError:
    try:
        who = "process {pid} on {host} since {since}".format(**json.loads(holder))
    except (ValueError, KeyError, TypeError):  # it has the lock, and has not said yet who it is
        who = "another process"
    return JobError(
        f"run {run!r} in {storage.place} is being written by {who}",
        "wait for its end or stop it, or give this job a run of its own: --set run=NAME",
    )
