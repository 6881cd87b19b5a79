"""One command at a time writes a run, and the workers of the one before have ended when it begins."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from zfleet.errors import JobError
from zfleet_jobs.run_folder.storage import Storage, writing

FILE = "lock"
WORKERS_FILE = "workers"
WAIT_SECONDS = 60
"""Workers outlive a killed driver by seconds; Ray needs about half a minute to notice that a whole node is lost."""

_POLL_SECONDS = 0.1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriteLease:
    """The right of one command to write to a run, which it shares with its workers.

    Attributes:
        storage: The run's folder.
        run: Its name.
        id: Of the lease; the lock file holds it.
    """

    storage: Storage
    run: str
    id: str

    @contextmanager
    def working(self) -> Iterator[None]:
        """Write to the run as a worker, inside the block: no other command begins before its end.

        Raises:
            JobError: Another command has begun: the one that started this worker is dead.
        """
        local = self.storage.local
        if local is None:
            yield
            return
        with writing(self.storage.place):
            file = (local / WORKERS_FILE).open("a+")
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            # In this order: the next command writes its id first, and then waits for workers that hold the other lock.
            if _id_in(local / FILE) != self.id:
                raise JobError(
                    f"run {self.run!r} in {self.storage.place} belongs to another command by now",
                    "leave it to that one",
                )
            with writing(self.storage.place):
                file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
            yield


@contextmanager
def only_writer(storage: Storage, run: str) -> Iterator[WriteLease]:
    """Lock a run for one command inside the block; its workers enter ``WriteLease.working``.

    The system takes the locks from a process that dies, however it dies.

    Args:
        storage: The run's folder. Under a URI nothing can be locked: a warning says so.
        run: Its name.

    Raises:
        JobError: Another command writes to it; says which process on which machine. Or workers of one that was killed
            do, after a minute still.
    """
    lease = WriteLease(storage, run, uuid.uuid4().hex)
    if storage.local is None:
        log.warning("%s is no folder: whether another command writes to run %s is not checked", storage.place, run)
        yield lease
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
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now, "id": lease.id}))
            file.flush()
        _wait_for_workers(storage.local / WORKERS_FILE, storage, run)
        yield lease


def _wait_for_workers(path: Path, storage: Storage, run: str) -> None:
    """Wait until the workers of the command before have ended.

    Raises:
        JobError: They have not, after ``WAIT_SECONDS``; names them.
    """
    with writing(storage.place):
        file = path.open("a+")
    with file:
        for attempt in range(round(WAIT_SECONDS / _POLL_SECONDS)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not attempt:
                    log.warning("run %s: workers of a command that was killed still write to it; waiting for them", run)
                time.sleep(_POLL_SECONDS)
            else:
                file.truncate(0)
                return
        file.seek(0)
        workers = ", ".join(file.read().splitlines())
    raise JobError(
        f"run {run!r} in {storage.place} is being written by workers of a command that was killed, "
        f"{WAIT_SECONDS} s after this one began: {workers}",
        "stop those processes, and give the command again",
    )


def _id_in(lock: Path) -> str | None:
    try:
        return str(json.loads(lock.read_text())["id"])
    except (ValueError, KeyError, TypeError):  # another command holds the lock and has not written its id yet
        return None


def _held(holder: str, storage: Storage, run: str) -> JobError:
    try:
        who = "process {pid} on {host} since {since}".format(**json.loads(holder))
    except (ValueError, KeyError, TypeError):  # it holds the lock and has not written its id yet
        who = "another process"
    return JobError(
        f"run {run!r} in {storage.place} is being written by {who}",
        "wait for its end or stop it, or give this job a run of its own: --set run=NAME",
    )
