"""Sending a base to workers: its files and its factors through the object store, once per node.

No job reads a path that only the driver has, and no worker computes factors again: a z means something
only on the factors it was trained on.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch
from zfleet.config.specs import BaseSpec
from zfleet.errors import BaseModelError
from zfleet.models.base import Base, base_name, base_slug, find_base, load_base
from zfleet.models.svf_model import SvfModel
from zfleet.paths import cache_root
from zfleet.rewards.python import PythonReward, resolve
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors
from zfleet.tasks.task import Task

_SHIPPED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


@dataclass(frozen=True)
class ShippedBase:
    """What a worker needs to open a base, small enough to travel in any message.

    Attributes:
        name: What people call the base.
        fingerprint: Its fingerprint.
        files: Object reference to {file name: bytes}.
        factors: Object reference to its ``Factors``.
        device: Where workers compute.
        dtype: What they compute in.
    """

    name: str
    fingerprint: str
    files: ray.ObjectRef[dict[str, bytes]]
    factors: ray.ObjectRef[Factors]
    device: str
    dtype: str

    @property
    def slug(self) -> str:
        """Name and fingerprint: the qualifier of its experts in the registry."""
        return base_slug(self.name, self.fingerprint)


def base_folder(spec: BaseSpec) -> tuple[str, Path]:
    """Name and folder of the base a spec names; the lab base is built when it is not cached.

    Raises:
        BaseModelError: Neither the lab, nor a folder, nor a hub id that can be fetched.
    """
    if spec.model == "lab":
        from zfleet.models.lab.build import LabRecipe, build_lab

        return spec.name or "lab", build_lab(LabRecipe())
    return spec.name or base_name(spec.model), find_base(spec.model)


def open_base(
    spec: BaseSpec, on_layer: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Base, Factors, Path]:
    """Load a base on this machine and get its factors from the cache, computing them the first time."""
    name, folder = base_folder(spec)
    base = load_base(folder, name=name, device=spec.device, dtype=_dtype(spec.dtype))
    factors = FactorCache(cache_root() / "factors").get(base.model, base.fingerprint, spec.targets, on_layer=on_layer)
    return base, factors, folder


def ship_base(spec: BaseSpec) -> tuple[ShippedBase, Base, Factors]:
    """Put a base's files and factors into the object store, for workers to open.

    Raises:
        BaseModelError: The base cannot be found or loaded.
    """
    base, factors, folder = open_base(spec)
    files = {path.name: path.read_bytes() for pattern in _SHIPPED for path in sorted(folder.glob(pattern))}
    shipped = ShippedBase(base.name, base.fingerprint, ray.put(files), ray.put(factors), spec.device, spec.dtype)
    return shipped, base, factors


def open_model(shipped: ShippedBase) -> SvfModel:
    """On a worker: the base in SVF form.

    Raises:
        BaseModelError: What arrived is not the base that was sent.
    """
    with tempfile.TemporaryDirectory(prefix="zfleet-base-") as folder:
        for name, data in ray.get(shipped.files).items():
            (Path(folder) / name).write_bytes(data)
        base = load_base(Path(folder), name=shipped.name, device=shipped.device, dtype=_dtype(shipped.dtype))
    if base.fingerprint != shipped.fingerprint:
        raise BaseModelError(
            f"base {shipped.name} arrived as {base.fingerprint[:12]}, sent was {shipped.fingerprint[:12]}",
            "use the same versions of torch, transformers and safetensors on all machines",
        )
    return SvfModel(base, ray.get(shipped.factors))


def by_value(task: Task) -> Task:
    """A task whose Python reward, if it has one, travels as code: only the driver can import its module."""
    if not isinstance(task.reward, PythonReward):
        return task
    function = resolve(task.reward.name)
    ray.cloudpickle.register_pickle_by_value(sys.modules[function.__module__])  # type: ignore[no-untyped-call]
    return replace(task, reward=replace(task.reward, function=function))


def _dtype(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
