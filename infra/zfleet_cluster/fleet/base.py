"""Sending a base and a task to workers through the object store, once per node.

No job reads a path that only the driver has, and no worker computes factors again: a z means something
only on the factors it was trained on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import ray
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedTokenizerBase

from zfleet.models.bundle import BaseBundle, open_tokenizer
from zfleet.models.svf_model import SvfModel
from zfleet.rewards.python import PythonReward, resolve
from zfleet.rewards.weighted import Weighted
from zfleet.tasks.task import Reward, Task


@dataclass(frozen=True)
class ShippedBase:
    """What a worker needs to open a base, small enough to travel in any message.

    Attributes:
        name: What people call the base.
        slug: Name and fingerprint: the qualifier of its experts in the registry.
        fingerprint: Its fingerprint.
        dtype: What workers compute in.
        bundle: Object reference to its files and factors.
        text: Object reference to its configuration and tokenizer: for who needs no weights.
    """

    name: str
    slug: str
    fingerprint: str
    dtype: str
    bundle: ray.ObjectRef[BaseBundle]
    text: ray.ObjectRef[Mapping[str, bytes]]


def ship(bundle: BaseBundle) -> ShippedBase:
    """Put a base and its factors into the object store."""
    return ShippedBase(
        bundle.name, bundle.slug, bundle.fingerprint, bundle.spec.dtype, ray.put(bundle), ray.put(bundle.text)
    )


def open_model(shipped: ShippedBase, mesh: DeviceMesh | None = None) -> SvfModel:
    """On a worker: the base in SVF form, split over the mesh if one is given.

    Raises:
        BaseModelError: What arrived is not the base that was sent.
    """
    return ray.get(shipped.bundle).open(mesh)


def fetch_tokenizer(shipped: ShippedBase) -> PreTrainedTokenizerBase:
    """On a worker: the base's tokenizer, without its weights."""
    return open_tokenizer(ray.get(shipped.text))


def by_value(task: Task) -> Task:
    """A task whose Python rewards travel as code: only the driver can import their modules."""
    return replace(task, reward=_by_value(task.reward))


def _by_value(reward: Reward) -> Reward:
    if isinstance(reward, Weighted):
        return Weighted(tuple(replace(part, reward=_by_value(part.reward)) for part in reward.parts))
    if not isinstance(reward, PythonReward):
        return reward
    function = resolve(reward.name)
    ray.cloudpickle.register_pickle_by_value(sys.modules[function.__module__])  # type: ignore[no-untyped-call]
    return replace(reward, function=function)
