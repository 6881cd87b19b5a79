"""Says when a member of the pool dies, and when it is back: Ray starts it again without a word."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

_LOOK_SECONDS = 0.5
log = logging.getLogger(__name__)


@contextmanager
def watched(members: Sequence[Any]) -> Iterator[None]:
    """Warn of deaths inside the block.

    Args:
        members: Actor handles of ``Member``, all alive.
    """
    stop = threading.Event()
    watch = threading.Thread(target=_watch, args=(members, stop), name="zfleet-pool-watch", daemon=True)
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join()


def _watch(members: Sequence[Any], stop: threading.Event) -> None:
    # A call that is answered only by the member's death: whoever dies next, one wait hears it.
    places: list[str] = ray.get([member.where.options(max_task_retries=-1).remote() for member in members])
    deaths = {member.until_its_end.remote(): number for number, member in enumerate(members)}
    returns: dict[Any, int] = {}
    while not stop.is_set():
        heard, _ = ray.wait([*deaths, *returns], timeout=_LOOK_SECONDS)
        for answer in heard:
            if answer in deaths:
                number = deaths.pop(answer)
                log.warning("engine pool: member %d (%s) died; it is started again", number, places[number])
                returns[members[number].where.options(max_task_retries=-1).remote()] = number
                continue
            number = returns.pop(answer)
            try:
                places[number] = ray.get(answer)
            except RayError as error:
                log.warning("engine pool: member %d does not come back: %s", number, error)
                continue
            log.warning("engine pool: member %d (%s) is back", number, places[number])
            deaths[members[number].until_its_end.remote()] = number
        if not deaths and not returns:
            return
