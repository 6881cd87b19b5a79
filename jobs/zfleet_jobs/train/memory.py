"""The memory of a training's workers, planned before anything starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from zfleet.config.specs import TrainSpec
from zfleet.errors import SpecError
from zfleet.memory.chosen import Chosen
from zfleet.memory.jobs import planned_training, room_here
from zfleet.memory.table import MemoryTable, gib
from zfleet.memory.worker import TaskSize, traced_base
from zfleet_jobs.run_folder.plan import Plan

log = logging.getLogger(__name__)


def plan_memory(
    spec: TrainSpec, folder: Path, plans: Sequence[Plan], before: Chosen | None
) -> tuple[Chosen, MemoryTable]:
    """Choose what `auto` in a job stands for, and compare what a worker needs with what it has.

    Args:
        spec: The job.
        folder: Of its base.
        plans: Of all its experts.
        before: What the run computed with before it was interrupted, which it keeps; None if it is new.

    Raises:
        SpecError: It can never fit; says what a worker needs, what there is, and which keys to lower.
    """
    base = traced_base(folder, spec.base)
    tasks = [TaskSize.of(plan.fit) for plan in plans]
    try:
        chosen, table = planned_training(spec, base, tasks, room_here(spec, base), before)
    except SpecError as error:
        if before is None:
            raise
        raise SpecError(
            f"run {spec.run!r} cannot go on here as it was started: {error.message}",
            f"{error.remedy}; other settings are a run of their own (--set run=NAME)",
        ) from None
    again = ", layers computed again in the backward pass" if chosen.recompute else ""
    log.log(
        logging.INFO if before is None else logging.WARNING,
        "run %s %s micro-batches of %d tokens%s%s; a worker needs up to %s",
        spec.run,
        "computes in" if before is None else "goes on in",
        chosen.micro_batch_tokens,
        again,
        "" if before is None else ", as it was started",
        gib(table.peak),
    )
    return chosen, table
