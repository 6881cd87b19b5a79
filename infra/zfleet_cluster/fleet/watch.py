"""Warnings when a replica of a job's fleet dies and when it is back. Ray starts it again silently."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from zfleet.supervise import guarded
from zfleet_cluster.errors import memory_death

_LOOK_SECONDS = 0.5
"""How soon the watch ends when it is stopped."""
_LOG = logging.getLogger(__name__)


@contextmanager
def watched(actors: Sequence[Any]) -> Iterator[None]:
    """Log the deaths of replicas inside the block.

    Args:
        actors: Handles of ``Replica`` actors, all alive.
    """
    stop = threading.Event()
    watch = threading.Thread(target=_watch, args=(actors, stop), name="zfleet-fleet-watch", daemon=True)
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join()


def _watch(actors: Sequence[Any], stop: threading.Event) -> None:
    with guarded("the watch over the engine's replicas"):
        _log_deaths(actors, stop)


def _log_deaths(actors: Sequence[Any], stop: threading.Event) -> None:
    processes: dict[int, str] = {}
    deaths: dict[Any, int] = {}
    # An actor names its process when it runs, and again after each death.
    starts = {_process(actor): number for number, actor in enumerate(actors)}
    while not stop.is_set() and (deaths or starts):
        ended, _ = ray.wait([*deaths, *starts], timeout=_LOOK_SECONDS)
        for call in ended:
            if call in deaths:
                number = deaths.pop(call)
                _LOG.warning("engine replica %d (%s) %s; it is started again", number, processes[number], _death(call))
                starts[_process(actors[number])] = number
                continue
            number = starts.pop(call)
            try:
                process: str = ray.get(call)
            except RayError as error:
                _LOG.warning("engine replica %d does not come back: %s", number, error)
                continue
            if number in processes:
                _LOG.warning("engine replica %d (%s) is back", number, process)
            processes[number] = process
            deaths[actors[number].until_its_end.remote()] = number


def _death(call: Any) -> str:
    """Say how a replica died. Only its death ends the call."""
    try:
        ray.get(call)
    except RayError as error:
        return memory_death(error) or "died"
    return "ended"


def _process(actor: Any) -> Any:
    return actor.process.options(max_task_retries=-1).remote()
