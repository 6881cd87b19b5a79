"""The model families that zfleet supports, and what each engine needs to know of a base before it opens it.

Neither torch nor vLLM is imported: a config is whatever Hugging Face's ``AutoConfig`` gives, asked for its fields.
"""

from __future__ import annotations

from typing import Any

from zfleet.errors import BaseModelError, EngineError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3")
"""``model_type`` of the families that pass the parity test (phi is Phi-1 and Phi-2, phi3 also Phi-3.5 and Phi-4)."""

VLLM_CPU_MIN_HEAD_SIZE = 32
"""The smallest head that vLLM's attention runs on a CPU."""

VLLM_CPU_HEAD_SIZES = (VLLM_CPU_MIN_HEAD_SIZE, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""The sizes that vLLM 0.32 declares for its CPU attention (``CPUAttentionBackend.get_supported_head_sizes``).

It does not check them when it starts: others fail at the first token, and what runs besides depends on the processor.
"""


def check_family(model_type: object, base_name: str) -> None:
    """Refuse a base of a family that zfleet was not tested with.

    Args:
        model_type: What the base's config.json says.
        base_name: What people call the base.

    Raises:
        BaseModelError: Names the base and its ``model_type``; the remedy lists the supported ones.
    """
    if model_type not in FAMILIES:
        raise BaseModelError(
            f"base {base_name} has model_type {model_type!r}, a family that zfleet does not support",
            f"use a base of one of {', '.join(FAMILIES)}",
        )


def head_size(config: Any) -> int:
    """Numbers in one attention head: ``head_dim``, or the hidden size divided by the heads where it is not set."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def check_vllm_head_size(config: Any, base_name: str) -> None:
    """Refuse a base whose heads vLLM's CPU attention cannot run. On a GPU vLLM has other kernels and this says nothing.

    Raises:
        EngineError: Names the base, its head size and the sizes that work.
    """
    size = head_size(config)
    if size in VLLM_CPU_HEAD_SIZES:
        return
    takes = ", ".join(map(str, VLLM_CPU_HEAD_SIZES))
    raise EngineError(
        f"base {base_name} has attention heads of size {size}, vLLM on a CPU takes "
        f"{VLLM_CPU_MIN_HEAD_SIZE} or more ({takes})",
        "run this base on TorchEngine: `engine: torch`",
    )
