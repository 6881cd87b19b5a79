"""zfleet inside vLLM's worker processes: SVF linears, the z table, and what the front asks of a worker.

Beside ``runner``, nothing else touches vLLM's internals in a worker (``processes`` and ``reading`` list what they use
outside). This file relies on the following, as they are in the releases that ``version`` names:

- ``register_quantization_config`` and ``QuantizationConfig.get_quant_method(layer, prefix)``: how a linear gets the
  object that computes it. ``prefix`` is the linear's module path.
- ``UnquantizedLinearMethod``: ``process_weights_after_loading`` packs W and empties ``layer.weight``;
  ``apply(layer, x, bias)`` computes with it.
- ``dispatch_cpu_unquantized_gemm(layer, remove_weight)``: what packs on a CPU; gives ``layer.cpu_linear``.
- ``LinearBase.tp_rank`` and ``tp_size``; ``ColumnParallelLinear.output_partition_sizes``, ``output_sizes``,
  ``QKVParallelLinear.total_num_heads``, ``total_num_kv_heads``, ``head_size``; ``RowParallelLinear``.
- ``get_current_vllm_config().additional_config``: our settings, while the model is built.
- ``worker_extension_cls``: methods mixed into the worker for ``collective_rpc``; ``worker.model_runner``.
- ``current_platform.device_type``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    QKVParallelLinear,
    RowParallelLinear,
    UnquantizedLinearMethod,
    register_weight_loader_v2_supported_method,
)
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform

from zfleet.engine.vllm_engine.hidden_states import HiddenSums
from zfleet.engine.vllm_engine.linears.delta_form import DeltaForm
from zfleet.engine.vllm_engine.linears.forms import Form, form_for
from zfleet.engine.vllm_engine.linears.parts import PartFactors
from zfleet.engine.vllm_engine.linears.step_rows import StepLinear, StepRows
from zfleet.engine.vllm_engine.plan import SETTINGS
from zfleet.engine.vllm_engine.runner import watch
from zfleet.svf.folder import FactorFolder
from zfleet.svf.shards import OutputPart, parts_of, shard_inputs, shard_outputs
from zfleet.svf.zvector import flat_digest

_WATCH_SECONDS = 2.0


@register_quantization_config(SETTINGS)
class SvfConfig(QuantizationConfig):  # type: ignore[misc]  # vLLM's types are not followed
    """Gives every linear whose matrices have factors an ``SvfMethod``; nothing is quantized.

    vLLM makes one object when it reads its settings and sends it to the workers; each builds one model with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.methods: list[SvfMethod] = []
        self.hidden = HiddenSums()
        self._step: StepRows | None = None
        self._loaded = 0
        self.watched = False

    def get_quant_method(self, layer: nn.Module, prefix: str) -> UnquantizedLinearMethod | None:
        if not isinstance(layer, LinearBase):
            return None
        if not any(name in self.names for name in parts_of(prefix, self.names)):
            return UnquantizedLinearMethod()
        if not isinstance(layer, (ColumnParallelLinear, RowParallelLinear)) and layer.tp_size > 1:
            raise ValueError(f"{prefix} is split over ranks in a way that zfleet does not know")
        method = SvfMethod(self, prefix)
        self.methods.append(method)
        return method

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Our settings of the engine, read while the model is built."""
        settings: dict[str, Any] = get_current_vllm_config().additional_config[SETTINGS]
        return settings

    @cached_property
    def factors(self) -> FactorFolder:
        """The factors of the base."""
        return FactorFolder(Path(self.settings["factors"]), self.settings["base"], self.settings["targets"])

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all matrices that have factors."""
        return frozenset(self.factors.names)

    @cached_property
    def form(self) -> Form:
        """All linears that have factors, in the form that the settings name."""
        return form_for(self.settings, torch.device(current_platform.device_type), _pack)

    @property
    def delta(self) -> DeltaForm:
        """The form, if it is ``delta``."""
        assert isinstance(self.form, DeltaForm)
        return self.form

    @property
    def step(self) -> StepRows:
        """The table, and the step under way."""
        assert self._step is not None, "the model is not loaded"
        return self._step

    def loaded(self) -> None:
        """Called by each method when its weights are loaded; the last call makes the table."""
        self._loaded += 1
        if self._loaded == len(self.methods):
            rows, tokens = int(self.settings["rows"]), int(self.settings["tokens"])
            device = torch.device(current_platform.device_type)
            self._step = self.form.open(rows, tokens, self.factors.layout.size, device)

    def get_name(self) -> str:
        return SETTINGS

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SvfConfig:
        return cls()


@register_weight_loader_v2_supported_method
class SvfMethod(UnquantizedLinearMethod):  # type: ignore[misc]
    """Computes one linear of vLLM: with dense W if every row is the base, otherwise with each row's z."""

    def __init__(self, config: SvfConfig, prefix: str) -> None:
        super().__init__()
        self.config = config
        self._parts = parts_of(prefix, config.names)
        self.names = [name for name in self._parts if name in config.names]
        self._linear: StepLinear | None = None

    def process_weights_after_loading(self, layer: LinearBase) -> None:
        weight: Tensor = layer.weight.detach()
        super().process_weights_after_loading(layer)
        plain = super().apply
        self._linear = self.config.form.linear(
            lambda x, bias: plain(layer, x, bias), weight, list(self._sharded(layer))
        )
        self.config.loaded()

    def apply(self, layer: LinearBase, x: Tensor, bias: Tensor | None = None) -> Tensor:
        assert self._linear is not None
        if x.dim() == 2:
            return self._linear(x, bias)
        # Models on vLLM's Transformers backend (Phi) have a batch dimension of one.
        y = self._linear(x.flatten(0, -2), bias)
        return y.view(*x.shape[:-1], y.shape[-1])

    def _sharded(self, layer: LinearBase) -> Iterator[PartFactors]:
        """Yield this rank's factors of each matrix, with the output columns that it computes."""
        outputs: list[int] = layer.output_partition_sizes
        whole = _output_parts(layer)
        start = 0
        for place, name in enumerate(self._parts):
            # A matrix that the base itself fuses (Phi-3) holds all outputs of the linear.
            which = slice(place, place + 1) if len(self._parts) > 1 else slice(None)
            own = slice(start, start + sum(outputs[which]))
            start = own.stop
            if name not in self.config.names:
                continue
            matrix = self.config.factors.matrix(name)
            if isinstance(layer, RowParallelLinear):
                share = shard_inputs(matrix, layer.tp_rank, layer.tp_size)
            else:
                share = shard_outputs(matrix, whole[which], layer.tp_rank, layer.tp_size)
            columns = self.config.factors.layout.slices[name]
            device = layer.weight.device
            u, s, vh = share.u.to(device), share.s.to(device), share.vh.to(device)
            yield PartFactors(name, u, s, vh, columns, own, share.u.shape[0] == matrix.u.shape[0])


def _pack(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Pack a weight [m, n] for a CPU as vLLM packs its own; returns x to x W^T."""
    layer: Any = nn.Module()
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    return lambda x: layer.cpu_linear(x, layer.weight, None)


def _output_parts(layer: LinearBase) -> tuple[OutputPart, ...]:
    """List the groups of outputs that a linear of vLLM splits over the ranks, each on its own."""
    if isinstance(layer, QKVParallelLinear):
        keys = OutputPart(layer.total_num_kv_heads * layer.head_size, layer.num_kv_head_replicas)
        return OutputPart(layer.total_num_heads * layer.head_size), keys, keys
    return tuple(OutputPart(size) for size in getattr(layer, "output_sizes", None) or [layer.output_size])


class SvfExtension:
    """Methods that vLLM mixes into every worker, for ``collective_rpc``."""

    vllm_config: Any
    model_runner: Any

    def zfleet_open(self, front: int) -> list[str]:
        """Start with an empty table, and watch the steps from now on.

        Args:
            front: Id of the process that started vLLM; this worker ends when that process does.

        Returns:
            The matrices that are computed with each row's z.
        """
        config = self._zfleet_config
        config.step.known.clear()
        config.step.peak_requests = config.step.peak_distinct = 0
        config.hidden.clear()
        if not config.watched:
            config.watched = True
            watch(self.model_runner, config.step, config.hidden)
            Thread(target=_end_with, args=(front,), name="zfleet-watch", daemon=True).start()
        return sorted({name for method in config.methods for name in method.names})

    def zfleet_put(self, digest: str, flat: bytes) -> None:
        """Make a z [R] float32 known, if it is what arrived."""
        config = self._zfleet_config
        z = torch.frombuffer(bytearray(flat), dtype=torch.float32)
        found = flat_digest(z, config.factors.layout, config.factors.digest)
        if found != digest:
            raise RuntimeError(f"z {found[:12]} arrived in the place of {digest[:12]}")
        config.step.known[digest] = z

    def zfleet_drop(self, digest: str) -> None:
        """Forget a z."""
        self._zfleet_config.step.known.pop(digest, None)

    def zfleet_peaks(self) -> tuple[int, int]:
        """Return the most requests, and the most different z, in one step so far."""
        step = self._zfleet_config.step
        return step.peak_requests, step.peak_distinct

    def zfleet_take_hidden(self, key: str, abandoned: list[str]) -> bytes:
        """As ``HiddenSums.take``: [hidden] float32, or nothing."""
        mean = self._zfleet_config.hidden.take(key, abandoned)
        return b"" if mean is None else mean.cpu().numpy().tobytes()

    def zfleet_singular_values(self) -> bytes:
        """As ``DeltaForm.singular_values``, float32."""
        return self._zfleet_config.delta.singular_values.numpy().tobytes()

    def zfleet_set_directions(self, kept: bytes) -> bytes:
        """As ``DeltaForm.set_directions``: [R] bool, given and returned."""
        asked = torch.frombuffer(bytearray(kept), dtype=torch.bool)
        return self._zfleet_config.delta.set_directions(asked).numpy().tobytes()

    @property
    def _zfleet_config(self) -> SvfConfig:
        for module in self.model_runner.get_model().modules():
            method = getattr(module, "quant_method", None)
            if isinstance(method, SvfMethod):
                return method.config
        raise RuntimeError("no linear of the model has factors")  # impossible: targets name some


def _end_with(front: int) -> None:
    """End this process when the one that started vLLM is gone: vLLM itself would wait for requests for ever."""
    parent = os.getppid()
    while psutil.pid_exists(front):
        time.sleep(_WATCH_SECONDS)
    # With several ranks, the scheduler is a process between the front and this one.
    if parent != front and os.getppid() == parent:
        with suppress(ProcessLookupError):  # it ended by itself in this moment
            os.kill(parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
