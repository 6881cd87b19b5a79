"""Sending a base to other processes through the object store, once per node.

Workers cannot read the driver's paths, and must not compute factors again: a z only has a meaning on the factors that
it was trained on.
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
    """Gives a process its base. A source is small and travels in any message."""

    async def fetch(self) -> BaseBundle:
        """Fetch the base and its factors."""


@dataclass(frozen=True)
class ShippedBase:
    """References to a base in the object store, small enough to travel in any message.

    Attributes:
        name: The name of the base.
        slug: Name and fingerprint, which qualify its experts in the registry.
        fingerprint: Its fingerprint.
        dtype: The number format in which workers compute.
        bundle: Object reference to its files and factors.
        text: Object reference to its configuration and tokenizer, for processes that need no weights.
    """

    name: str
    slug: str
    fingerprint: str
    dtype: str
    bundle: ray.ObjectRef[BaseBundle]
    text: ray.ObjectRef[Mapping[str, bytes]]

    async def fetch(self) -> BaseBundle:
        """As ``BaseSource.fetch``. The process that sent the base must live."""
        return await self.bundle


def ship(bundle: BaseBundle) -> ShippedBase:
    """Put a base and its factors into the object store."""
    return ShippedBase(
        bundle.name, bundle.slug, bundle.fingerprint, bundle.spec.dtype, ray.put(bundle), ray.put(bundle.text)
    )


def open_model(shipped: ShippedBase, mesh: DeviceMesh | None = None) -> SvfModel:
    """Open the base in SVF form on a worker, split over the mesh if one is given.

    Raises:
        BaseModelError: The base that arrived is not the one that was sent.
    """
    return ray.get(shipped.bundle).open(mesh)


def fetch_tokenizer(shipped: ShippedBase) -> PreTrainedTokenizerBase:
    """Open the base's tokenizer on a worker, without its weights."""
    return open_tokenizer(ray.get(shipped.text))
