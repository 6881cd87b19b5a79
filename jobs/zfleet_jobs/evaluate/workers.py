"""The workers of an evaluation: Ray actors that open the base once, or share a fleet of engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from zfleet.config.evaluate import EvaluateSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import JobError, ZfleetError
from zfleet.memory.keys import ENGINE_KEYS
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Task
from zfleet_cluster import undisturbed
from zfleet_cluster.capacity import actors_that_fit
from zfleet_cluster.errors import memory_death
from zfleet_cluster.fleet.actors import Fleet, shared_fleet
from zfleet_cluster.fleet.base import ShippedBase, fetch_tokenizer, open_model
from zfleet_jobs.evaluate.answerer import Answerer, Pool, Result, Work
from zfleet_jobs.evaluate.prepared import Prepared
from zfleet_jobs.task_shipping import by_value

_RESTARTS = 2
"""How often a worker that died is started again, and its work with it."""


@dataclass(frozen=True)
class WorkerSetup:
    """What every worker needs; goes through the object store once.

    Attributes:
        shipped: The base.
        spec: The evaluation.
        tasks: By their keys.
        fleet: Engines that the workers share; None if each opens the base.
        experts: The z that an approximate form of the linears chooses its directions for.
    """

    shipped: ShippedBase
    spec: EvaluateSpec
    tasks: Mapping[str, Task]
    fleet: Fleet | None
    experts: tuple[ZVector, ...]


class Worker:
    """Opens an engine for its first piece of work, and keeps it."""

    def __init__(self, setup: WorkerSetup) -> None:
        # Nothing is opened here: of an actor that cannot start, Ray passes on no error but a text.
        self._setup = setup
        self._answerer: Answerer | None = None
        self._known: dict[str, ZVector] = {}

    def do(self, work: Work, experts: Mapping[str, ray.ObjectRef[ZVector]]) -> Result:
        """Do one piece of work.

        Args:
            work: What to do.
            experts: {digest: reference to the z} of ``work.z_digests``.

        Raises:
            ZfleetError: The base cannot be opened, or the engine or a reward failed.
        """
        if self._answerer is None:
            self._answerer = _open(self._setup)
        for digest, reference in experts.items():
            if digest not in self._known:
                self._known[digest] = ray.get(reference)
        return self._answerer(work, {digest: self._known[digest] for digest in experts})


def _open(setup: WorkerSetup) -> Answerer:
    spec = setup.spec
    torch.set_num_threads(spec.resources.torch_threads)
    if setup.fleet is not None:
        tokenizer, engine = fetch_tokenizer(setup.shipped), SyncEngine(setup.fleet.engine())
    else:
        model = open_model(setup.shipped)
        tokenizer, engine = model.base.tokenizer, SyncEngine(TorchEngine(model, spec.engine))
    if spec.engine.vllm.form.delta is not None:
        # Of all experts, which the fleet shares: only the first worker chooses.
        engine.choose_directions([engine.put_z(z) for z in setup.experts])
    skips = frozenset(name for name, task in spec.tasks.items() if task.reward.on_error == "skip")
    return Answerer(engine, tokenizer, setup.tasks, skips, spec.temperature)


@contextmanager
def worker_pool(prepared: Prepared, shipped: ShippedBase, z: Mapping[str, ZVector]) -> Iterator[Pool]:
    """Run the workers of an evaluation inside the block, as many as the spec says and the cluster has room for.

    Args:
        prepared: The evaluation.
        shipped: Its base.
        z: {digest: z} of everything that work may name; it may grow inside the block.

    Raises:
        JobError: No worker fits the cluster.
        BaseModelError, FactorsError, EngineError: An engine cannot be opened.
    """
    spec = prepared.spec
    with shared_fleet(shipped, spec.engine, spec.resources) as fleet:
        tasks = {name: by_value(task) for name, task in prepared.tasks.items()}
        setup = ray.put(WorkerSetup(shipped, spec, tasks, fleet, tuple(prepared.experts.values())))
        actor: Any = ray.remote(Worker)
        options: dict[str, Any] = {"num_cpus": spec.resources.cpus, "num_gpus": spec.resources.gpus}
        if spec.resources.memory_bytes is not None:
            options["memory"] = spec.resources.memory_bytes
        options |= {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS}
        workers = [actor.options(**options).remote(setup) for _ in range(actors_that_fit(spec.resources, spec.workers))]
        references: dict[str, ray.ObjectRef[ZVector]] = {}

        def reference(digest: str) -> ray.ObjectRef[ZVector]:
            if digest not in references:
                references[digest] = ray.put(z[digest])
            return references[digest]

        def pool(work: Sequence[Work]) -> Iterator[tuple[Work, Result]]:
            waiting, free = list(reversed(work)), list(workers)
            running: dict[Any, tuple[Work, Any]] = {}
            while waiting or running:
                while waiting and free:
                    one, worker = waiting.pop(), free.pop()
                    experts = {digest: reference(digest) for digest in sorted(one.z_digests)}
                    running[worker.do.remote(one, experts)] = (one, worker)
                (done, *_), _ = ray.wait(list(running), num_returns=1)
                one, worker = running.pop(done)
                free.append(worker)
                yield one, _result(done)

        try:
            yield pool
        finally:
            with undisturbed():
                for worker in workers:
                    ray.kill(worker)


def _result(done: ray.ObjectRef[Result]) -> Result:
    """Return what a worker gave; an error of ours is raised as it was, a death of Ray's in words."""
    try:
        return ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, ZfleetError):
            raise error.cause from error
        raise
    except (RayActorError, OutOfMemoryError) as error:
        death = memory_death(error)
        raise JobError(
            f"a worker of the evaluation {death or f'died {_RESTARTS + 1} times'}",
            f"{f'lower {ENGINE_KEYS}' if death else 'look for what killed it'}; the same command goes on from what is "
            "answered",
        ) from error
