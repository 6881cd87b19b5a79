"""The memory of the processes of any job, compared with that of this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.compare import ExperimentSpec
from zfleet.config.evaluate import EvaluateSpec
from zfleet.config.search import SearchSpec
from zfleet.config.serve import ServeSpec
from zfleet.config.specs import TrainSpec
from zfleet.config.transfer import TransferSpec
from zfleet.memory.chosen import Chosen
from zfleet.memory.keys import ENGINE_KEYS, TRAIN_KEYS
from zfleet.memory.node import NodeMemory, node_memory
from zfleet.memory.table import MemoryTable, Room
from zfleet.memory.trace import TracedBase
from zfleet.memory.worker import (
    TaskSize,
    calibrate_table,
    evaluate_table,
    experiment_table,
    replica_table,
    room_of,
    search_table,
    serve_table,
    traced_base,
    train_table,
    transfer_table,
)
from zfleet.models.base import context_of
from zfleet.tasks.fit import FitReport

Job = TrainSpec | SearchSpec | EvaluateSpec | CalibrateSpec | ExperimentSpec | TransferSpec | ServeSpec


def planned(job: Job, folder: Path, fits: Sequence[FitReport] = ()) -> tuple[MemoryTable, Room | None]:
    """Plan the largest process of a job that was not started before.

    Args:
        job: The job.
        folder: Of its base.
        fits: Its tasks, measured, in the spec's order; those of ``serve`` are not known.

    Raises:
        SpecError: It can never fit; says what it needs, what there is, and which keys to lower.
    """
    base, tasks = traced_base(folder, job.base), [TaskSize.of(fit) for fit in fits]
    room = room_here(job, base)
    if isinstance(job, TrainSpec):
        _, table = planned_training(job, base, tasks, room)
        return table, room
    if isinstance(job, ExperimentSpec):
        _, table = planned_experiment(job, base, tasks, room)
        return table, room
    if isinstance(job, SearchSpec):
        table = search_table(job, base, tasks[0])
    elif isinstance(job, TransferSpec):
        table = transfer_table(job, base, tasks[0])
    elif isinstance(job, EvaluateSpec):
        table = evaluate_table(job, base, tasks)
    elif isinstance(job, CalibrateSpec):
        table = calibrate_table(job, base, tasks)
    else:
        table = serve_table(job, base, context_of(AutoConfig.from_pretrained(folder).get_text_config()))
    if room is not None:
        # Of a service only what it holds whatever it is asked must fit.
        table.check(room, ENGINE_KEYS, always=isinstance(job, ServeSpec))
    return table, room


def planned_training(
    job: TrainSpec, base: TracedBase, tasks: Sequence[TaskSize], room: Room | None, before: Chosen | None = None
) -> tuple[Chosen, MemoryTable]:
    """Plan a worker of a training: as ``train_table``, and compare it with the room.

    Raises:
        SpecError: As ``planned``.
    """
    chosen, table = train_table(job, base, tasks, room, before)
    if room is not None:
        table.check(room, TRAIN_KEYS)
    return chosen, table


def planned_experiment(
    job: ExperimentSpec, base: TracedBase, tasks: Sequence[TaskSize], room: Room | None
) -> tuple[Chosen, MemoryTable]:
    """Plan a training of an experiment: as ``experiment_table``, and compare it with the room.

    Raises:
        SpecError: As ``planned``.
    """
    chosen, table = experiment_table(job, base, tasks, room)
    if room is not None:
        table.check(room, TRAIN_KEYS)
    return chosen, table


def room_here(job: Job, base: TracedBase, node: NodeMemory | None = None) -> Room | None:
    """Say what one process of a job may use on this machine, beside the others; None if that is unknown.

    Args:
        job: The job.
        base: Its base.
        node: The machine; None reads this one.
    """
    beside = 0
    if not isinstance(job, ServeSpec | ExperimentSpec) and job.engine.kind == "vllm":
        beside = job.engine.vllm.members * job.engine.vllm.tensor_parallel * replica_table(job.engine, base).peak
    return room_of(job, processes_at_once(job, os.cpu_count() or 1), node or node_memory(), base, beside)


def processes_at_once(job: Job, cpus: int) -> int:
    """Return how many processes of a job run on a machine of so many processors at most."""
    if isinstance(job, TrainSpec):
        cohorts = -(-len(job.experts) // job.cohort)
        wanted = min(job.concurrent_experts, cohorts) * job.num_workers
    elif isinstance(job, SearchSpec):
        wanted = job.trials_per_generation
    elif isinstance(job, EvaluateSpec):
        wanted = job.workers
    elif isinstance(job, ServeSpec):
        wanted = job.max_replicas or job.replicas
    elif isinstance(job, TransferSpec | CalibrateSpec):
        wanted = 1
    else:
        wanted = cpus
    return max(min(wanted, int(cpus // job.resources.cpus)), 1)
