"""A tiny random base of each supported family, as an ordinary Hugging Face folder.

The bases have everything in which families differ, with values that matter: biases, norm weights, fewer key-value heads
than heads, heads that together are wider than the model, tied embeddings, partial rotation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
)

from zfleet.models.lab.tokenizer import CONTEXT, build_tokenizer

_KINDS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "llama-bias": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}),
    "gemma": (GemmaConfig, {"num_attention_heads": 4, "head_dim": 32, "tie_word_embeddings": True}),
    "phi": (PhiConfig, {"partial_rotary_factor": 0.5}),
    "phi3": (Phi3Config, {}),
}

FAMILIES: tuple[str, ...] = tuple(_KINDS)
"""The supported families, and variants of Llama with biases and with tied embeddings."""

# Larger than usual, so that a random model clearly prefers some tokens and every bias and norm weight matters.
_SPREAD = 0.2


def save_tiny(
    family: str, folder: Path, seed: int = 0, tokenizer: PreTrainedTokenizerBase | None = None, **changes: Any
) -> Path:
    """Write a random base: two layers of width 64, heads of size 32.

    Args:
        family: One of ``FAMILIES``.
        folder: Written here; created if it is missing.
        seed: Other seeds give other weights.
        tokenizer: Its tokenizer; the lab's when left out.
        changes: Fields of its config that are other than usual.

    Returns:
        The folder.
    """
    kind, settings = _KINDS[family]
    tokenizer = build_tokenizer() if tokenizer is None else tokenizer
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):  # the global generator stays as it was
        model = AutoModelForCausalLM.from_config(kind(**{**shape, **settings, **changes}))
    _randomise(model, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def _randomise(model: PreTrainedModel, seed: int) -> None:
    """Draw all parameters: matrices and biases around 0, norm weights around their initial values."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = _SPREAD * torch.randn(parameter.shape, generator=generator)
        norm = parameter.ndim == 1 and not name.endswith(".bias")
        parameter.copy_(parameter + noise if norm else noise)
    if model.config.model_type == "gemma":
        # Gemma multiplies embeddings by 8, the root of its width; they would outweigh the layers.
        model.get_parameter("model.embed_tokens.weight").div_(4)
