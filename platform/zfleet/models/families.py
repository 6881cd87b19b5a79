"""The model families that zfleet supports, and what each engine needs to know of a base before it opens it.

Neither torch nor vLLM is imported: a config is whatever Hugging Face's ``AutoConfig`` gives, asked for its fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zfleet.errors import BaseModelError, EngineError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3")
"""``model_type`` of the families that pass the parity test (phi is Phi-1 and Phi-2, phi3 also Phi-3.5 and Phi-4)."""

VISION_FAMILIES = ("llava", "llava_next")
"""``model_type`` of the vision-language models over a language tower of one of ``FAMILIES``."""

VLLM_CPU_MIN_HEAD_SIZE = 32
"""The smallest head that vLLM's attention runs on a CPU."""

VLLM_CPU_HEAD_SIZES = (VLLM_CPU_MIN_HEAD_SIZE, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""The sizes that vLLM 0.32 declares for its CPU attention (``CPUAttentionBackend.get_supported_head_sizes``).

It does not check them when it starts: others fail at the first token, and what runs besides depends on the processor.
"""


def sees(config: Mapping[str, object]) -> bool:
    """Whether a base takes images, by its config.json."""
    return config.get("model_type") in VISION_FAMILIES


def check_family(config: Mapping[str, object], base_name: str) -> None:
    """Refuse a base of a family that zfleet was not tested with.

    Args:
        config: The base's config.json; of a vision-language model its language tower counts.
        base_name: What people call the base.

    Raises:
        BaseModelError: Names the base and its ``model_type``; the remedy lists the supported ones.
    """
    model_type = config.get("model_type")
    family, described = model_type, f"model_type {model_type!r}"
    if sees(config):
        tower = config.get("text_config")
        # The first LLaVA checkpoints do not name their tower: it is Llama, the default.
        family = tower.get("model_type", "llama") if isinstance(tower, Mapping) else "llama"
        described += f" over {family!r}"
    if family not in FAMILIES:
        raise BaseModelError(
            f"base {base_name} has {described}, a family that zfleet does not support",
            f"use a base of one of {', '.join(FAMILIES)}, or {' or '.join(VISION_FAMILIES)} over one of them",
        )


def check_no_images(config: Mapping[str, object], base_name: str) -> None:
    """Refuse a vision-language base for an engine that answers only text.

    Raises:
        EngineError: Names the base.
    """
    if sees(config):
        raise EngineError(
            f"base {base_name} takes images, which zfleet on vLLM does not",
            "run this base on TorchEngine: `engine: torch`",
        )


def head_size(config: Any) -> int:
    """Return the size of an attention head: ``head_dim``, or the hidden size divided by the number of heads."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def sliding_window(config: Any) -> int | None:
    """Return how many tokens back a base attends in some of its layers; None if all of them see everything before."""
    used = getattr(config, "use_sliding_window", True)
    window: int | None = getattr(config, "sliding_window", None) if used else None
    return window


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
