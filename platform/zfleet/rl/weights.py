"""What is learned over one base: any number of z, or (for the comparison) something else, such as LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from zfleet.config.learner import LearnerSpec
from zfleet.models.output_head import check_frozen_head
from zfleet.models.svf_model import SvfModel
from zfleet.rl.parametrisation import PARAMETRISATIONS, Parametrisation
from zfleet.svf.zvector import ZVector


class Weights(Protocol):
    """Turns the numbers that Adam moves, p [P] for each expert, into a model that answers.

    Attributes:
        model: The base.
        limit: How many experts can be learned at once; None for any number.
    """

    model: SvfModel
    limit: int | None

    def start(self, spec: LearnerSpec) -> Tensor:
        """Return the p [P] of the base."""
        ...

    def z_rows(self, specs: Sequence[LearnerSpec], ps: Sequence[Tensor]) -> Tensor | None:
        """Return what the rows of a batch are bound to, one row [E, R] for each expert; None if nothing is bound."""
        ...

    def backward(self, loss: Tensor, ps: Sequence[Tensor]) -> list[Tensor]:
        """Compute the gradient of a loss in each p: [P] each; zeros if the loss does not depend on it."""
        ...

    def reference_policy(self) -> AbstractContextManager[Tensor | None]:
        """Make the model the base inside the block; yields the z to bind to all rows, [1, R], or None for nothing."""
        ...

    def z(self, spec: LearnerSpec, p: Tensor) -> ZVector | None:
        """Return what an engine must know to answer as the expert does; None if the model itself has changed.

        Raises:
            InvalidZ: A value is not finite.
        """
        ...


class SvfWeights:
    """A z for each expert: any number of them over one copy of the base."""

    limit: int | None = None

    def __init__(self, model: SvfModel) -> None:
        """Learn z over a base.

        Raises:
            SpecError: Its targets include the output head.
        """
        check_frozen_head(model.base.model, model.layout.names, model.factors.targets)
        self.model = model
        self._shape = cache(lambda name: PARAMETRISATIONS[name](model.factors, model.device))

    def start(self, spec: LearnerSpec) -> Tensor:
        """As ``Weights.start``."""
        return self.shape(spec).start()

    def z_rows(self, specs: Sequence[LearnerSpec], ps: Sequence[Tensor]) -> Tensor:
        """As ``Weights.z_rows``: the z of each expert, float32."""
        return torch.stack([self.shape(spec).z(p) for spec, p in zip(specs, ps, strict=True)])

    def backward(self, loss: Tensor, ps: Sequence[Tensor]) -> list[Tensor]:
        """As ``Weights.backward``."""
        return list(torch.autograd.grad(loss, list(ps), materialize_grads=True))

    def reference_policy(self) -> AbstractContextManager[Tensor | None]:
        """As ``Weights.reference_policy``: in float32 W itself, which is faster, else z = 1 on the factors.

        Below float32 W is rounded otherwise than the factors, and that would count as divergence.
        """
        whole = self.model.base.model.dtype == torch.float32
        return nullcontext(None if whole else torch.ones(1, self.model.layout.size, device=self.model.device))

    def z(self, spec: LearnerSpec, p: Tensor) -> ZVector:
        """As ``Weights.z``."""
        with torch.no_grad():
            return self.model.z_from_flat(self.shape(spec).z(p))

    def p(self, spec: LearnerSpec, z: ZVector) -> Tensor:
        """Compute the p [P] at which an expert begins that is to begin at a z.

        Raises:
            WrongBase, InvalidZ: The z belongs to another base, other factors or other targets, or the parametrisation
                cannot have it.
        """
        self.model.check(z)
        return self.shape(spec).p(z.flat(self.model.layout).to(self.model.device))

    def shape(self, spec: LearnerSpec) -> Parametrisation:
        """Return the parametrisation that a spec names."""
        return self._shape(spec.parametrisation)
