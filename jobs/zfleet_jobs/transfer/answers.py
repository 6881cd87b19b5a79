"""The process of a transfer that answers: all prompts under all z, in one batch of one engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from zfleet.config.specs import EngineSpec, ResourceSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z, Engine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.evaluate.graded import evaluate
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Task
from zfleet_cluster.capacity import actors_that_fit, ray_options
from zfleet_cluster.errors import original
from zfleet_cluster.fleet.actors import Fleet, shared_fleet
from zfleet_cluster.fleet.base import ShippedBase, fetch_tokenizer, open_model
from zfleet_jobs.task_shipping import by_value

Rewards = tuple[float | None, ...]
"""Of each prompt; None if it was not graded."""


def rewards_under(
    shipped: ShippedBase,
    engine: EngineSpec,
    resources: ResourceSpec,
    task: Task,
    zs: Sequence[ZVector | None],
    skip_failed_rewards: bool,
) -> list[Rewards]:
    """Answer the test prompts of a task greedily under several z, on the connected Ray cluster.

    Args:
        shipped: The base.
        engine: What answers.
        resources: Of the process that answers, or of each replica.
        task: Its test prompts are answered.
        zs: Each for all prompts; None is the base.
        skip_failed_rewards: Leave out prompts whose reward function fails.

    Raises:
        JobError: The process does not fit the cluster.
        RewardError, EngineError, BaseModelError, ...: What answering raised.
    """
    options: dict[str, Any] = ray_options(resources)
    with shared_fleet(shipped, engine, resources) as fleet:
        actors_that_fit(resources, 1)
        answering = ray.remote(**options)(_answer).remote(
            shipped, engine, resources.torch_threads, by_value(task), tuple(zs), skip_failed_rewards, fleet
        )
        try:
            rewards: list[Rewards] = ray.get(answering)
        except RayError as error:
            raise original(error, "the process that answers") from None
        return rewards


def _answer(
    shipped: ShippedBase,
    spec: EngineSpec,
    threads: int,
    task: Task,
    zs: Sequence[ZVector | None],
    skip_failed_rewards: bool,
    fleet: Fleet | None,
) -> list[Rewards]:
    torch.set_num_threads(threads)
    engine: Engine
    if fleet is None:
        model = open_model(shipped)
        tokenizer, engine = model.base.tokenizer, TorchEngine(model, spec)
    else:
        tokenizer, engine = fetch_tokenizer(shipped), fleet.engine()
    with SyncEngine(engine) as sync:
        digests = [BASE_Z if z is None else sync.put_z(z) for z in zs]
        if spec.vllm.form.delta is not None:
            sync.choose_directions([digest for digest in digests if digest != BASE_Z])
        samples = list(task.test)
        rows = [digest for digest in digests for _ in samples]
        graded = evaluate(
            sync, tokenizer, task, samples * len(zs), rows, skip_failed_rewards=skip_failed_rewards
        ).graded
    return [graded[place * len(samples) : (place + 1) * len(samples)] for place in range(len(zs))]
