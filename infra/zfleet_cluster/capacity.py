"""Whether the actors of a job fit the cluster now. If none fits, Ray Tune would wait for ever, silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util import placement_group, remove_placement_group

from zfleet.config.specs import ResourceSpec
from zfleet.errors import JobError

WAIT_SECONDS = 10.0
"""Resources of a job that has just ended become free with a delay."""


def actors_that_fit(resources: ResourceSpec, wanted: int, wait_seconds: float = WAIT_SECONDS) -> int:
    """Count how many of ``wanted`` actors can run at once beside the jobs that run now: at least 1.

    The resources are reserved to find out, as Tune will do, and released again.

    Raises:
        JobError: None fits; says what each needs, what the cluster has and what is free.
    """
    bundle = resources.amounts
    total = _amounts(ray.cluster_resources)
    fitting = min(wanted, *(int(total.get(key, 0) // need) for key, need in bundle.items()))
    while fitting > 0:
        group = placement_group([bundle] * fitting)
        try:
            if group.wait(wait_seconds):
                return fitting
        finally:
            remove_placement_group(group)
        # Resources that are busy now may stay busy: count those that are free.
        free = _amounts(ray.available_resources)
        fitting = min(fitting - 1, *(int(free.get(key, 0) // need) for key, need in bundle.items()))
    free = _amounts(ray.available_resources)
    raise JobError(
        f"nothing of this job fits: each part needs {_text(bundle)}, the cluster has {_text(total, bundle)}, "
        f"free are {_text(free, bundle)}",
        "stop what holds them, give the cluster more, or lower `resources` in the spec",
    )


def ray_options(resources: ResourceSpec) -> dict[str, float]:
    """Return what a worker, a task or an actor takes, by the names of Ray's options."""
    options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    return options if resources.memory_bytes is None else options | {"memory": resources.memory_bytes}


def check_room(
    engine: Mapping[str, float], engines: int, worker: ResourceSpec, wait_seconds: float = WAIT_SECONDS
) -> None:
    """Refuse engines that leave no room for one worker, which would wait for ever.

    Args:
        engine: ``num_cpus``, ``num_gpus`` and perhaps ``memory`` of each engine.
        engines: How many engines.
        worker: The resources of a worker.
        wait_seconds: How long to wait for busy resources to become free.

    Raises:
        JobError: They do not fit; says what is needed, what the cluster has and what is free.
    """
    named = {"CPU": engine["num_cpus"], "GPU": engine["num_gpus"], "memory": engine.get("memory", 0)}
    each, rest = {key: value for key, value in named.items() if value}, worker.amounts
    total = _amounts(ray.cluster_resources)
    if all(each.get(key, 0) * engines + rest.get(key, 0) <= total.get(key, 0) for key in each | rest):
        group = placement_group([each] * engines + [rest])
        try:
            if group.wait(wait_seconds):
                return
        finally:
            remove_placement_group(group)
    free = _amounts(ray.available_resources)
    raise JobError(
        f"this job does not fit: {engines} engines need {_text(each)} each and one worker {_text(rest)}, "
        f"the cluster has {_text(total, each)}, free are {_text(free, each)}",
        "stop what holds them, give the cluster more, or lower `resources` or `engine.vllm` in the spec",
    )


def _amounts(read: Callable[[], Any]) -> dict[str, float]:
    return {key: float(value) for key, value in read().items()}


def _text(amounts: dict[str, float], keys: dict[str, float] | None = None) -> str:
    return " and ".join(_amount(key, amounts.get(key, 0)) for key in keys or amounts)


def _amount(key: str, value: float) -> str:
    return f"{value / 2**30:.1f} GiB of memory" if key == "memory" else f"{value:g} {key}"
