"""The way to split a base over processes that zfleet does not use: PyTorch's tensor parallelism."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from zfleet.models.svf_model import SvfModel
from zfleet.svf.linear import SvfLinear


class Directions(nn.Module):
    """The SVF linear under tensor parallelism: a process has r / N directions, with their z, of every matrix."""

    def __init__(self, svf: SvfLinear, mesh: DeviceMesh) -> None:
        super().__init__()
        self._name, self._binding, self._mesh = svf.name, svf.binding, mesh
        self.vh, self.us = _linear(svf.vh), _linear(svf.us)
        parallelize_module(self, mesh, {"vh": ColwiseParallel(), "us": RowwiseParallel()})

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, n] to [B, T, m], which is summed over processes."""
        rows = self._binding.rows
        assert rows is not None
        z = rows[self._name].chunk(self._mesh.size(), -1)[self._mesh.get_local_rank()]
        y: Tensor = self.us(self.vh(x) * z.unsqueeze(1))
        return y


def tensor_parallel(model: SvfModel, mesh: DeviceMesh) -> SvfModel:
    """Split every matrix by its directions, and embeddings and head by the vocabulary."""
    causal = model.base.model
    for path, svf in [(path, part) for path, part in causal.named_modules() if isinstance(part, SvfLinear)]:
        parent, _, leaf = path.rpartition(".")
        setattr(causal.get_submodule(parent), leaf, Directions(svf, mesh))
    vocabulary = {
        "model.embed_tokens": RowwiseParallel(input_layouts=Replicate()),
        "lm_head": ColwiseParallel(output_layouts=Replicate()),
    }
    parallelize_module(causal, mesh, vocabulary)
    return model


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear
