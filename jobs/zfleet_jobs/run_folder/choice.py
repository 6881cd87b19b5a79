"""What `auto` stands for in a run, chosen when it was started: it goes on with the same, wherever it is resumed."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

from zfleet.errors import JobError
from zfleet.memory.chosen import Chosen
from zfleet_jobs.run_folder.storage import Storage

FILE = "memory.json"
log = logging.getLogger(__name__)


def recorded_choice(storage: Storage) -> Chosen | None:
    """Read what a run computes with; None if it has not started.

    Raises:
        JobError: The record is damaged or cannot be read.
    """
    data = storage.get(FILE)
    if data is None:
        return None
    try:
        stored = json.loads(data)
        return Chosen(int(stored["micro_batch_tokens"]), bool(stored["recompute"]))
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"{storage.place}/{FILE} is damaged: {error}",
            "write into it what the run's log names, or give the job a run of its own (--set run=NAME)",
        ) from error


def record_choice(storage: Storage, chosen: Chosen) -> None:
    """Write what a run computes with.

    Raises:
        JobError: It cannot be written.
    """
    storage.put(FILE, json.dumps(asdict(chosen)).encode())
