"""Sending a base to other processes through the object store, once per node.

No job reads a path that only the driver has, and no worker computes factors again: a z means something
only on the factors it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import ray
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedTokenizerBase

from zfleet.models.bundle import BaseBundle, open_tokenizer
from zfleet.models.svf_model import SvfModel


class BaseSource(Protocol):
    """Gives a process its base. Sources are small and travel in any message."""

    async def fetch(self) -> BaseBundle:
        """The base and its factors."""


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

    async def fetch(self) -> BaseBundle:
        """As ``BaseSource.fetch``; the process that sent it must live."""
        return await self.bundle


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
