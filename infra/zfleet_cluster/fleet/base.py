"""A base in messages between processes of a cluster: a reference to it, with which any node finds its files.

Workers must not compute factors again: a z only has a meaning on the factors that it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import ray
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedTokenizerBase

from zfleet.models.base import base_slug, load_tokenizer
from zfleet.models.bundle import BaseBundle
from zfleet.models.places import Bring, find_here, find_texts
from zfleet.models.reference import BaseReference
from zfleet.models.svf_model import SvfModel
from zfleet_cluster.bases.sending import SendingNode


@dataclass(frozen=True)
class ShippedBase:
    """A base and the node that it comes from, small enough to travel in any message.

    Attributes:
        reference: What names the base and its files.
        node: Where it comes from.
    """

    reference: BaseReference
    node: SendingNode

    @property
    def name(self) -> str:
        """The name of the base."""
        return self.reference.name

    @property
    def slug(self) -> str:
        """Name and fingerprint, which qualify its experts in the registry."""
        return base_slug(self.reference.name, self.reference.fingerprint)

    @property
    def fingerprint(self) -> str:
        """Its fingerprint."""
        return self.reference.fingerprint

    @property
    def dtype(self) -> str:
        """The number format in which workers compute."""
        return self.reference.spec.dtype

    def find(self) -> BaseBundle:
        """Find the base and its factors on this node, or bring them there.

        Raises:
            BaseModelError: They are nowhere to be had, or do not arrive.
        """
        return find_here(self.reference, self._bring())

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Open the base's tokenizer on this node, which need not have the weights.

        Raises:
            BaseModelError: As ``find``.
        """
        return load_tokenizer(find_texts(self.reference, self._bring()))

    def _bring(self) -> Bring | None:
        here = ray.get_runtime_context().get_node_id() == self.node.id
        return None if here else self.node.bring


def ship(bundle: BaseBundle) -> ShippedBase:
    """Describe a base of this node to other processes of the cluster, wherever they run."""
    return ShippedBase(bundle.reference(), SendingNode.here())


def open_model(shipped: ShippedBase, mesh: DeviceMesh | None = None) -> SvfModel:
    """Open the base in SVF form on a worker, split over the mesh if one is given.

    Raises:
        BaseModelError: The base is nowhere to be had, does not arrive, or cannot be split.
    """
    return shipped.find().open(mesh)


def fetch_tokenizer(shipped: ShippedBase) -> PreTrainedTokenizerBase:
    """Open the base's tokenizer on a worker, without its weights."""
    return shipped.tokenizer()
