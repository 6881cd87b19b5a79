"""What memory a step takes in one of the processes that a base is split over: part of ``benchmarks/sharding.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor

from zfleet.models.recompute import decoder_layers
from zfleet.models.svf_model import SvfModel

_MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """What one step took, in MiB.

    Attributes:
        weights: Of weights and factors that the process holds between steps.
        kept: What the forward pass kept for the backward pass beside them.
        peak: What the step allocated at most, beside the weights: what is kept, gathered and passing.
    """

    weights: float
    kept: float
    peak: float


def measure_memory(model: SvfModel, step: Callable[[], Tensor], trace: Path) -> Memory:
    """Of two steps, in this process; a profile is written to ``trace``."""
    peak = _peak(step, trace)
    return Memory(_held(model), _kept(model, step), peak)


def _held(model: SvfModel) -> float:
    """MiB of weights and factors that this process holds."""
    return sum(storage.nbytes() for storage in _weights(model).values()) / _MIB


def _kept(model: SvfModel, step: Callable[[], Tensor]) -> float:
    """MiB that are kept from forward to backward pass beside the weights, what goes into recomputed layers included."""
    weights = _weights(model)
    saved: dict[int, torch.UntypedStorage] = {}
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved[_storage(tensor).data_ptr()] = _storage(tensor)
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        if not kept:
            # The backward pass begins; what FSDP gathered and let go of has no bytes any more.
            kept.append(sum(storage.nbytes() for place, storage in saved.items() if place not in weights))
        return tensor

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pack(inputs[0])

    layers = [layer for _, layer in decoder_layers(model.base.model)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        step()
    for hook in hooks:
        hook.remove()
    return kept[0] / _MIB


def _weights(model: SvfModel) -> dict[int, torch.UntypedStorage]:
    storages = [_storage(tensor) for tensor in [*model.base.model.parameters(), *model.base.model.buffers()]]
    return {storage.data_ptr(): storage for storage in storages}


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
    if isinstance(tensor, AsyncCollectiveTensor):
        tensor = tensor.trigger_wait()
    return tensor.untyped_storage()


def _peak(step: Callable[[], Tensor], trace: Path) -> float:
    """MiB that a step has allocated at most, weights that are gathered for a while included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    profile.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    allocated = [event["args"]["Total Allocated"] - event["args"]["Bytes"] for event in events]
    return float(max(allocated) - allocated[0]) / _MIB
