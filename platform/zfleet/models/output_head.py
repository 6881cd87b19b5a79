"""The head that makes logits of hidden states, and a way to compute with both of them inside the model's own pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zfleet.errors import SpecError
from zfleet.svf.linear import RowBinding, SvfLinear

Reader = Callable[[Tensor], Tensor]
"""Takes the hidden states [B, T, hidden], and returns what the model's pass returns in the place of logits."""

_FEW_TOKENS, _WIDE = 128, 4096
"""Up to so many tokens, a head of so many words or more computes the transposed product on AMD's processors: MKL takes
half the time so for 8 and for 32 tokens of SmolLM2's 49,152 words, nine tenths for 128, and longer beyond 256. On
Intel's it takes 1.2 to 2 times as long."""


class OutputHead:
    """The output head of a causal LM. Its logits are those of the model: no supported family changes them afterwards.

    A reader gets the hidden states while the model's forward pass is at its head. If the base is split over processes,
    the head's matrix is whole only then.
    """

    def __init__(self, module: nn.Module, binding: RowBinding) -> None:
        """Take over a model's head; as long as no reader is set, it computes logits as before.

        Args:
            module: The head.
            binding: Where SVF linears of the model read z.
        """
        self._module = module
        self._binding = binding
        # A context variable, so that a learner and an engine can share one model from different threads.
        self._reader: ContextVar[Reader | None] = ContextVar("zfleet_reader", default=None)
        self._given = module.forward
        module.forward = self._forward

    @property
    def weight(self) -> Tensor:
        """[vocabulary, hidden] of a head that no z changes; for readers."""
        weight = self._module.weight
        assert isinstance(weight, Tensor)
        assert not isinstance(self._module, SvfLinear)
        return weight

    @property
    def vocabulary(self) -> int:
        """How many logits there are."""
        module = self._module
        return len(module.us if isinstance(module, SvfLinear) else self.weight)

    @contextmanager
    def read_by(self, reader: Reader) -> Iterator[None]:
        """Give the hidden states of passes inside the block to a reader."""
        token = self._reader.set(reader)
        try:
            yield
        finally:
            self._reader.reset(token)

    def logits(self, hidden: Tensor, owners: Tensor) -> Tensor:
        """Compute logits [n, vocabulary] float32 of hidden states [n, hidden]; for readers.

        Args:
            owners: [n], the row of the batch that each is from.
        """
        rows = self._binding.rows
        if rows is None or not isinstance(self._module, SvfLinear):
            return self._plain(hidden).float()
        z = rows[self._module.name]
        with self._binding.bound({self._module.name: z if len(z) == 1 else z.index_select(0, owners)}):
            # A row of one token each, so that each has the z of its own row.
            logits = self._plain(hidden.unsqueeze(1)).squeeze(1)
        return logits.float()

    def _plain(self, hidden: Tensor) -> Tensor:
        """Compute logits [..., vocabulary] of hidden states [..., hidden]."""
        module = self._module
        if not isinstance(module, nn.Linear) or not _transposing_pays(module.weight, hidden):
            logits: Tensor = self._given(hidden)
            return logits
        flat = (module.weight @ hidden.reshape(-1, hidden.shape[-1]).t()).t().contiguous()
        return (flat if module.bias is None else flat + module.bias).view(*hidden.shape[:-1], -1)

    def _forward(self, hidden: Tensor) -> Tensor:
        reader = self._reader.get()
        out: Tensor = self._plain(hidden) if reader is None else reader(hidden)
        return out


def _transposing_pays(weight: Tensor, hidden: Tensor) -> bool:
    measured = hidden.device.type == "cpu" and hidden.dtype == torch.float32 and _on_amd()
    return measured and len(weight) >= _WIDE and hidden.shape[:-1].numel() <= _FEW_TOKENS


@cache
def _on_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def check_frozen_head(model: PreTrainedModel, names: Iterable[str], targets: str) -> None:
    """Refuse to train the output head: gradients pass through it as a constant, chunk by chunk.

    Args:
        model: The base.
        names: Module paths of the matrices that are trained.
        targets: How a spec names them.

    Raises:
        SpecError: The head is one of them.
    """
    head = model.get_output_embeddings()
    for name in names:
        if model.get_submodule(name) is head:
            raise SpecError(
                f"targets {targets!r} select {name}, the output head, which experts cannot train",
                "set base.targets to mlp, attention, all, or a pattern that does not match it",
            )
