"""A base that does not fit one device: its weights split over the processes that train (FSDP2).

Each process holds 1/N of every matrix, gathers a decoder layer while it computes it, and runs samples of its own, so
that gradients in z are summed over processes as those of whole bases are. docs/training.md has the measurement.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from zfleet.errors import BaseModelError
from zfleet.models.base import Base
from zfleet.models.recompute import decoder_layers
from zfleet.models.svf_model import Sharding, SvfModel
from zfleet.svf.factors import Factors, MatrixFactors
from zfleet.svf.folder import FactorFolder
from zfleet.svf.linear import RowBinding, SvfLinear, replace_linears


def open_sharded(base: Base, factors: Path, targets: str, mesh: DeviceMesh) -> SvfModel:
    """Open a base in SVF form, sharded over all processes of the mesh; each calls this. No dimension need divide.

    Factors are mapped, split and let go layer by layer; of the whole ones the model keeps identity, shapes and singular
    values, with U and Vh on the meta device. From then on every pass of the model, forward and backward, is
    run by all processes, as often by each (``most_micro_batches``), on rows of its own.

    Args:
        base: Whole, on the CPU, its target linears still plain; it is changed in place. The mesh's device gets the
            shares, and while this runs one layer besides. What is mapped takes none of the process's own memory.
        factors: The folder of its factors.
        targets: Those of the factors.
        mesh: Of one dimension: the processes, and the kind of their device.

    Raises:
        FactorsError: Factors that are missing, damaged, or of another base or other targets.
        BaseModelError: The base takes images: its embeddings are read outside of its passes.
    """
    if base.vision is not None:
        raise BaseModelError(
            f"base {base.name} takes images: it cannot be split over the {mesh.size()} processes that train",
            "train on a device that holds it whole, or train its language model alone",
        )
    folder = FactorFolder(factors, base.fingerprint, targets)
    model, binding = base.model, RowBinding()
    known: dict[str, MatrixFactors] = {}
    for path, layer in decoder_layers(model):
        known |= _replace(model, folder, [name for name in folder.names if name.startswith(f"{path}.")], binding)
        fully_shard(layer, mesh=mesh)
    known |= _replace(model, folder, [name for name in folder.names if name not in known], binding)
    _shard_rest(model, mesh)
    # The digest is of all numbers, which this process does not have.
    spectrum = Factors({name: known[name] for name in folder.names}, base.fingerprint, targets, folder.digest)
    return SvfModel(base, spectrum, Sharding(mesh, binding))


def most_micro_batches(model: SvfModel, count: int) -> int:
    """Return the largest count of micro-batches of any process; of a model that is whole, ``count``.

    Weights are gathered from all processes in every pass: a process with fewer micro-batches must run as many as the
    others, which would wait for it for ever. It runs placeholder tokens, with 0 times their loss.
    """
    if model.sharding is None:
        return count
    mesh = model.sharding.mesh
    most = torch.tensor(count, device=mesh.device_type)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, mesh.get_group())
    return int(most)


def _replace(
    model: PreTrainedModel, folder: FactorFolder, names: Iterable[str], binding: RowBinding
) -> dict[str, MatrixFactors]:
    """Put SVF linears that can be split in the place of these matrices, and say what is known of their factors."""
    known = {}
    for name in names:
        matrix = folder.matrix(name)
        replace_linears(model, {name: folder.linear(name, model.dtype)}, binding)
        linear = model.get_submodule(name)
        assert isinstance(linear, SvfLinear)
        linear.forget_weight()
        known[name] = MatrixFactors(matrix.u.to("meta"), matrix.s.clone(), matrix.vh.to("meta"))
    return known


def _shard_rest(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Split what is in no decoder layer: embeddings, head, and the little that remains with the model itself."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    if getattr(head, "weight", None) is embeddings.weight:
        # A tied matrix is used in two places: it stays gathered from its first use in a pass to the last.
        fully_shard([embeddings, head], mesh=mesh)
    else:
        fully_shard(embeddings, mesh=mesh)
        fully_shard(head, mesh=mesh)
    fully_shard(model, mesh=mesh)
