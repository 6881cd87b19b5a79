"""Random LoRA adapters in PEFT's format."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from hetero.base import Shape
from hetero.settings import Settings

_STD = 0.02
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_adapter(settings: Settings, number: int, rank: int) -> Path:
    """A folder with one adapter for all linears of the base's layers; written once per run."""
    folder = settings.scratch / f"lora-{rank}-{number}"
    if folder.is_dir():
        return folder
    folder.mkdir()
    chance = torch.Generator().manual_seed(number)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(settings.shape.layers):
        for module, (rows, columns) in _linears(settings.shape).items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, columns, generator=chance) * _STD
            tensors[f"{name}.lora_B.weight"] = torch.randn(rows, rank, generator=chance) * _STD
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(settings.folder),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": list(MODULES),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _linears(shape: Shape) -> dict[str, tuple[int, int]]:
    """Output and input width of each linear of a layer."""
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    return {
        "self_attn.q_proj": (queries, shape.hidden),
        "self_attn.k_proj": (keys, shape.hidden),
        "self_attn.v_proj": (keys, shape.hidden),
        "self_attn.o_proj": (shape.hidden, queries),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
