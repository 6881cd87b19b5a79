"""The plan of a vLLM engine: the folder of its base, vLLM's arguments, and environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from zfleet.config.specs import EngineSpec
from zfleet.engine.vllm_engine.environment import cpu_environment
from zfleet.engine.vllm_engine.version import check_vllm
from zfleet.errors import EngineError
from zfleet.models.bundle import BaseBundle
from zfleet.models.families import check_no_images, check_vllm_head_size
from zfleet.models.fingerprint import read_config
from zfleet.svf.folder import FactorFolder

SETTINGS = "zfleet"
"""Our name among vLLM's quantizations, in its additional settings, and in the extra arguments of a request."""

HIDDEN = "zfleet_hidden"
"""Among the extra arguments of a request: the key under which its hidden states are summed up."""

_EXTENSION = "zfleet.engine.vllm_engine.worker.SvfExtension"
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Without tensor parallelism, the model computes in the process of vLLM's scheduler.

On a CPU vLLM would start a process for it, to bind its threads to cores, which we leave unbound. The scheduler would
wait for that process in a tight loop, on a core that the threads need.
"""

_GIB = 2**30
_BLOCK = 32
"""Tokens in a block of the prefix cache. With vLLM's 128 on a CPU, shorter prefixes would never be shared."""


@dataclass(frozen=True)
class VllmPlan:
    """A base, and how vLLM runs it.

    Attributes:
        model: Folder of the base.
        factors: Its factors.
        base: Fingerprint of the base.
        device: ``cpu`` or ``cuda``.
        dtype: The type that it computes in.
        vocabulary: Entries of the base's embedding.
        max_length: The longest prompt and answer together, in tokens.
        spec: Slots, rows and vLLM's own settings.
    """

    model: Path
    factors: FactorFolder
    base: str
    device: str
    dtype: str
    vocabulary: int
    max_length: int
    spec: EngineSpec

    @classmethod
    def unpack(cls, bundle: BaseBundle, spec: EngineSpec) -> VllmPlan:
        """Plan an engine on a base.

        Raises:
            EngineError: vLLM is missing or untested, or does not run this base, or this form, on this device.
            FactorsError: The factors are damaged.
        """
        check_vllm()
        placed = bundle.spec
        if placed.device == "cuda" and spec.vllm.form.name != "factored":
            raise EngineError(
                f"engine.vllm.form is {spec.vllm.form.name!r}: on a GPU vLLM computes `factored` alone",
                "leave the form out",
            )
        check_no_images(read_config(bundle.model), bundle.name)
        config = AutoConfig.from_pretrained(bundle.model)
        if placed.device == "cpu":
            check_vllm_head_size(config, bundle.name)
        return cls(
            model=bundle.model,
            factors=bundle.factor_folder(),
            base=bundle.fingerprint,
            device=placed.device,
            dtype=placed.dtype,
            vocabulary=int(config.vocab_size),
            max_length=spec.longest(bundle.context),
            spec=spec,
        )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of vLLM's ``AsyncEngineArgs``."""
        spec = self.spec
        tokens = max(spec.vllm.batch_tokens, spec.slots)
        arguments: dict[str, Any] = {
            "model": str(self.model),
            "tokenizer_mode": "hf",
            "dtype": self.dtype,
            "max_model_len": self.max_length,
            "max_num_seqs": spec.slots,
            "max_num_batched_tokens": tokens,
            "enable_chunked_prefill": True,
            "tensor_parallel_size": spec.vllm.tensor_parallel,
            "enable_prefix_caching": True,
            "quantization": SETTINGS,
            "worker_extension_cls": _EXTENSION,
            "additional_config": {
                SETTINGS: {
                    "factors": str(self.factors.path),
                    "base": self.base,
                    "targets": self.factors.targets,
                    "rows": spec.z_rows,
                    "tokens": tokens,
                    "form": spec.vllm.form.name,
                }
            },
            "disable_log_stats": True,
            "enable_log_requests": False,
        }
        if self.device == "cpu":
            arguments["enforce_eager"] = True
            arguments["block_size"] = _BLOCK
            arguments["kv_cache_memory_bytes"] = int(spec.vllm.cache_gib * _GIB)
            if spec.vllm.tensor_parallel == 1:
                arguments["distributed_executor_backend"] = ONE_PROCESS
        return arguments

    def set_environment(self) -> None:
        """Set what vLLM reads only from the environment. What a person has set stays."""
        variables = {
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
            # vLLM then handles all outputs of a step at once: an answer that meets a stop string frees its row in time.
            "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE": str(max(self.spec.slots, 128)),
        }
        if self.device == "cpu":
            # Threads bound to cores would collide with those of other engines and learners on the same machine.
            variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
            os.environ |= cpu_environment()
        for name, value in variables.items():
            os.environ.setdefault(name, value)
