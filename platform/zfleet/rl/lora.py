"""LoRA by PEFT, on the same base in the same loop: the baseline that SVF is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from zfleet.config.learner import LearnerSpec
from zfleet.models.base import Base
from zfleet.models.output_head import check_frozen_head
from zfleet.models.svf_model import SvfModel
from zfleet.svf.factors import Factors
from zfleet.svf.layout import target_names
from zfleet.svf.zvector import ZVector


class LoraWeights:
    """W' = W + alpha / rank B A on each target matrix (arXiv 2106.09685), for one expert: the model itself changes.

    Attributes:
        model: The base with adapters; nothing of it is in SVF form.
    """

    limit: int | None = 1

    def __init__(self, base: Base, targets: str, rank: int, alpha: int) -> None:
        """Change a base in place; it belongs to this object from then on.

        Args:
            base: Its linears still plain.
            targets: Which matrices get adapters, as for SVF.
            rank: Of each adapter.
            alpha: Scale of the adapters, times ``rank``.

        Raises:
            SpecError: No matrix is chosen, or the output head is.
        """
        self._names = target_names(base.model, targets)
        check_frozen_head(base.model, self._names, targets)
        self.model = SvfModel(base, Factors({}, base.fingerprint, "none"))
        self._settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=self._names, lora_dropout=0.0, bias="none")
        self._adapted: PeftModel | None = None
        self._parts: list[torch.nn.Parameter] = []
        self._p = torch.empty(0)

    def start(self, spec: LearnerSpec) -> Tensor:
        """Start as PEFT does: A random, by the spec's seed, and B zero, so that the model is the base: [P]."""
        assert self._adapted is None, "the model has its adapters"
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        # PEFT draws from the global random state, which is restored afterwards.
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(spec.seed)
            self._adapted = get_peft_model(self.model.base.model, self._settings)
        self._parts = [part for part in self.model.base.model.parameters() if part.requires_grad]
        self._p = torch.cat([part.detach().reshape(-1).float() for part in self._parts])
        place = 0
        for part in self._parts:
            # Views of p, so that the model has what Adam changes.
            part.data = self._p[place : place + part.numel()].view(part.shape)
            place += part.numel()
        return self._p

    def z_rows(self, specs: Sequence[LearnerSpec], ps: Sequence[Tensor]) -> None:
        """Return None: the model itself has what is learned."""
        self._require_own(ps)

    def backward(self, loss: Tensor, ps: Sequence[Tensor]) -> list[Tensor]:
        """As ``Weights.backward``."""
        self._require_own(ps)
        parts = torch.autograd.grad(loss, self._parts, materialize_grads=True)
        return [torch.cat([part.reshape(-1) for part in parts])]

    @contextmanager
    def reference_policy(self) -> Iterator[None]:
        """As ``Weights.reference_policy``: without the adapters."""
        assert self._adapted is not None
        with self._adapted.disable_adapter():
            yield

    def z(self, spec: LearnerSpec, p: Tensor) -> ZVector | None:
        """Return None: the model itself has what is learned."""
        self._require_own([p])
        return None

    def _require_own(self, ps: Sequence[Tensor]) -> None:
        (p,) = ps
        if not torch.equal(p.detach(), self._p):
            raise ValueError("the model answers under the p that start() gave, as it stands, and under no other")
