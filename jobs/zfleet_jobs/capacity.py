"""How many actors fit now. Ray Tune waits for ever, and without a word, where none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.util import placement_group, remove_placement_group

from zfleet.config.specs import ResourceSpec
from zfleet.errors import JobError

WAIT_S = 10.0
"""Resources of a job that has just ended come back with a delay."""


def actors_that_fit(resources: ResourceSpec, wanted: int, wait_s: float = WAIT_S) -> int:
    """How many of ``wanted`` actors can run at once beside all that runs already: at least 1.

    Reserves them to find out, as Tune will, and gives them back.

    Raises:
        JobError: Not one fits; says what each needs, what the cluster has and what is free.
    """
    bundle = {key: value for key, value in {"CPU": resources.cpus, "GPU": resources.gpus}.items() if value}
    total = _amounts(ray.cluster_resources)
    fitting = min(wanted, *(int(total.get(key, 0) // need) for key, need in bundle.items()))
    while fitting > 0:
        group = placement_group([bundle] * fitting)
        try:
            if group.wait(wait_s):
                return fitting
        finally:
            remove_placement_group(group)
        # What is busy now may well stay busy: take what is free.
        free = _amounts(ray.available_resources)
        fitting = min(fitting - 1, *(int(free.get(key, 0) // need) for key, need in bundle.items()))
    free = _amounts(ray.available_resources)
    raise JobError(
        f"nothing of this job fits: each part needs {_text(bundle)}, the cluster has {_text(total, bundle)}, "
        f"free are {_text(free, bundle)}",
        "stop what holds them, give the cluster more, or lower `resources` in the spec",
    )


def _amounts(read: Callable[[], Any]) -> dict[str, float]:
    return {key: float(value) for key, value in read().items()}


def _text(amounts: dict[str, float], keys: dict[str, float] | None = None) -> str:
    return " and ".join(f"{amounts.get(key, 0):g} {key}" for key in keys or amounts)
