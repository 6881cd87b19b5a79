"""A base in SVF form: one copy of the weights, a z per row of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from zfleet.errors import FactorsError
from zfleet.models.attention import use_attention
from zfleet.models.base import Base
from zfleet.models.images import Images
from zfleet.models.output_head import OutputHead, Reader
from zfleet.models.shared_prompt import PassCost
from zfleet.svf.factors import Factors, LinearFactors
from zfleet.svf.linear import RowBinding, replace_linears
from zfleet.svf.zvector import ZVector


@dataclass(frozen=True)
class Sharding:
    """How a base is sharded over processes.

    Attributes:
        mesh: The processes. A forward or backward pass completes only if all of them run it.
        binding: What the base's SVF linears, which are in place already, read their z rows from.
    """

    mesh: DeviceMesh
    binding: RowBinding


class SvfModel:
    """The base with its target linears replaced by SVF linears; engines and learners share it.

    The base is changed in place and belongs to this object from then on.

    Attributes:
        base: The base.
        factors: Its factors.
        layout: Order and ranks of a z.
        binding: Where the SVF linears read the z of each row.
        head: Makes logits of hidden states.
        sharding: How the base is sharded over processes; None if this one holds it whole.
    """

    def __init__(
        self,
        base: Base,
        factors: Factors,
        sharding: Sharding | None = None,
        linears: Mapping[str, LinearFactors] | None = None,
    ) -> None:
        """Replace the target linears.

        Args:
            base: With plain linears, or sharded with SVF linears in place.
            factors: Of this base.
            sharding: What ``open_sharded`` did to the base.
            linears: What the linears compute with, in the base's precision; None: it is computed of the factors.

        Raises:
            FactorsError: The factors belong to another base.
        """
        if factors.base != base.fingerprint:
            raise FactorsError(
                f"factors {factors.digest[:12]} belong to base {factors.base[:12]}, not to {base.fingerprint[:12]}",
                "compute the factors of this base",
            )
        self.base = base
        self.factors = factors
        self.layout = factors.layout
        self.sharding = sharding
        self.binding = RowBinding() if sharding is None else sharding.binding
        if sharding is None:
            replace_linears(base.model, factors.matrices if linears is None else linears, self.binding)
        use_attention(base.model)
        self.head = OutputHead(base.model.get_output_embeddings(), self.binding)

    @property
    def device(self) -> torch.device:
        """Device that the model computes on."""
        return self.base.model.device

    @cached_property
    def cost(self) -> PassCost:
        """What a forward pass multiplies."""
        return PassCost.of(self.base.model)

    @contextmanager
    def bound(self, z: Tensor | None) -> Iterator[None]:
        """Bind z [B, R], a row for each of the batch, for the forward passes inside the block.

        [1, R] is one z for all rows; None is the base.
        """
        with self.binding.bound(None if z is None else self.layout.split(z)):
            yield

    def inputs(self, input_ids: Tensor, images: Sequence[Images] = ()) -> dict[str, Tensor]:
        """Return what the model reads of token ids [B, T]: the ids, or embeddings [B, T, D] if a row has images.

        Args:
            images: Of each row, whose places are in its ids; empty if no row has any.
        """
        if not any(images):
            return {"input_ids": input_ids}
        assert self.base.vision is not None
        return {"inputs_embeds": self.base.vision.embed(input_ids, images)}

    def logits(self, input_ids: Tensor, z: Tensor | None, images: Sequence[Images] = (), **inputs: Any) -> Tensor:
        """Compute logits [B, T, vocabulary] float32 of token ids [B, T], row i under z[i], or all under z [1, R].

        Args:
            images: As in ``inputs``.
        """
        return self._run(input_ids, z, images, inputs).float()

    def read(
        self, reader: Reader, input_ids: Tensor, z: Tensor | None, images: Sequence[Images] = (), **inputs: Any
    ) -> Tensor:
        """Compute what a reader makes of the hidden states [B, T, hidden] of token ids [B, T]; z, images as ``logits``.

        The reader runs at the head, inside the model's forward pass. No logits are computed unless it asks for them.
        """
        with self.head.read_by(reader):
            return self._run(input_ids, z, images, inputs)

    def logits_at(self, inputs: Mapping[str, Tensor], z: Tensor | None, places: Tensor, **options: Any) -> Tensor:
        """Compute logits [B, vocabulary] float32 at one position of each row. No other position goes through the head.

        Args:
            inputs: As ``inputs`` returns them.
            z: As in ``logits``.
            places: [B] the position of each row.
        """
        with self.bound(z):
            hidden = self.base.model.base_model(**inputs, **options).last_hidden_state
            kept = hidden[torch.arange(len(places), device=places.device), places]
            logits: Tensor = self.base.model.get_output_embeddings()(kept.unsqueeze(1))
        return logits[:, 0].float()

    def _run(self, input_ids: Tensor, z: Tensor | None, images: Sequence[Images], inputs: dict[str, Any]) -> Tensor:
        with self.bound(z):
            out = self.base.model(**self.inputs(input_ids, images), **inputs)
        return cast(Tensor, out.logits)

    def spread(self, prompt: Sequence[int], images: Images) -> Sequence[int]:
        """Repeat each image token of a prompt as often as its image has features, as the model reads it.

        Raises:
            InvalidRequest: As ``ImageReader.spread``.
        """
        vision = self.base.vision
        return prompt if vision is None else vision.reader.spread(prompt, images)

    def check(self, z: ZVector) -> None:
        """Refuse a z that does not fit this base and its factors.

        Raises:
            WrongBase, InvalidZ: As ``ZVector.check_fits``.
        """
        z.check_fits(base=self.base.fingerprint, factors=self.factors.digest, layout=self.layout)

    def z_from_flat(self, flat: Tensor) -> ZVector:
        """Make a z-vector of [R] values.

        Raises:
            InvalidZ: A value is not finite.
        """
        values = {name: part.detach().float().cpu().clone() for name, part in self.layout.split(flat).items()}
        return ZVector(values, self.base.fingerprint, self.factors.digest, self.factors.targets)
