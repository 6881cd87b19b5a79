"""The config.json of a GGUF file's model, from the metadata and the shapes of the tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from zfleet.errors import BaseModelError
from zfleet.models.gguf.read import CONVERT, GgufFile

EMBEDDINGS, OUTPUT = "token_embd.weight", "output.weight"
ROPE_FACTORS = "rope_freqs.weight"
"""What rotary frequencies are divided by, one factor for each; files of Llama 3.1 and later have it."""

_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
}
_READ = {
    *_SIZES,
    *("attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.sliding_window"),
    *("rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor"),
    "rope.scaling.original_context_length",
}
_WITHOUT_EFFECT = {"vocab_size", "rope.scaling.finetuned", "tensor_data_layout", "use_parallel_residual"}

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The settings that all models with scaling of type ``llama3`` were trained with; only ``factor`` differs."""


def read_config(file: GgufFile) -> PreTrainedConfig:
    """Return the config of the model in a GGUF file.

    Every key of the architecture is read, is known to have no effect, or is 0. Others are refused: a model must not
    silently compute another function than its file describes.

    Raises:
        BaseModelError: A key is missing, unknown, or has a value that zfleet cannot express; names it.
    """
    try:
        return AutoConfig.for_model(file.architecture.model_type, **_fields(file))
    except (ValueError, TypeError, ZeroDivisionError, StrictDataclassError) as error:
        raise BaseModelError(f"{file.path} describes a model that cannot be built: {error}", CONVERT) from error


def _fields(file: GgufFile) -> dict[str, Any]:
    architecture = file.architecture
    _refuse_unknown(file)
    fields: dict[str, Any] = {field: _whole(file, key) for key, field in _SIZES.items()}
    _check_blocks(file, fields["num_hidden_layers"])
    key, field = architecture.eps
    fields[field] = _real(file, key)
    heads = fields["num_attention_heads"]
    fields["num_key_value_heads"] = _whole(file, "attention.head_count_kv", heads)
    fields["vocab_size"] = int(_tensor(file, EMBEDDINGS).shape[-1])
    fields["tie_word_embeddings"] = OUTPUT not in file.tensors
    head = _whole(file, "attention.key_length", fields["hidden_size"] // heads)
    if _whole(file, "attention.value_length", head) != head:
        raise _cannot(file, "attention.value_length", f"keys of size {head}")
    if architecture.head_dim:
        fields["head_dim"] = head
    elif head * heads != fields["hidden_size"]:
        raise _cannot(file, "attention.key_length", f"{heads} heads that are {fields['hidden_size']} wide together")
    if architecture.biases:
        fields["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    if architecture.model_type == "llama":
        fields["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    if architecture.model_type == "phi3":
        fields["sliding_window"] = _whole(file, "attention.sliding_window", 0) or None
        fields["original_max_position_embeddings"] = _whole(
            file, "rope.scaling.original_context_length", fields["max_position_embeddings"]
        )
    elif _whole(file, "attention.sliding_window", 0):
        raise _cannot(file, "attention.sliding_window", f"a {architecture.model_type} without a window")
    fields["rope_parameters"] = _rope(file, fields, head)
    for name in ("bos", "eos", "pad"):
        fields[f"{name}_token_id"] = file.get(f"tokenizer.ggml.{'padding' if name == 'pad' else name}_token_id")
    return fields


def _rope(file: GgufFile, fields: dict[str, Any], head: int) -> dict[str, Any]:
    """Describe the rotary embeddings, as transformers' ``rope_parameters``."""
    theta = _real(file, "rope.freq_base", 10_000.0)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    rotated = _whole(file, "rope.dimension_count", head)
    if file.architecture.partial_rotary:
        rope["partial_rotary_factor"] = rotated / head
    elif rotated != head:
        raise _cannot(file, "rope.dimension_count", f"heads of size {head} that are rotated as a whole")
    kind = _value(file, "rope.scaling.type", "none")
    if kind == "linear":
        rope |= {"rope_type": "linear", "factor": _real(file, "rope.scaling.factor")}
    elif kind != "none":
        raise _cannot(file, "rope.scaling.type", "rotary embeddings that are not scaled, or linearly")
    if ROPE_FACTORS not in file.tensors:
        return rope
    factors = np.array(file.tensors[ROPE_FACTORS].data, dtype=np.float32)
    scaled = rope | {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    config = AutoConfig.for_model(file.architecture.model_type, **fields, rope_parameters=scaled)
    inverse, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / theta ** (torch.arange(0, head, 2, dtype=torch.float32) / head)
    if rope["rope_type"] != "default" or not np.allclose((plain / inverse).numpy(), factors, rtol=1e-3):
        raise BaseModelError(
            f"{file.path} scales rotary frequencies by {ROPE_FACTORS} in another way than Llama 3.1 does", CONVERT
        )
    return scaled


def _check_blocks(file: GgufFile, count: int) -> None:
    """Refuse a number of layers that the tensors do not have, before a model of so many is built."""
    blocks = {name.split(".")[1] for name in file.tensors if name.startswith("blk.")}
    if count != len(blocks):
        raise BaseModelError(
            f"{file.path} says {count} for {file.architecture.name}.block_count, and holds tensors of {len(blocks)}",
            CONVERT,
        )


def _refuse_unknown(file: GgufFile) -> None:
    known = {*_READ, *_WITHOUT_EFFECT, file.architecture.eps[0]}
    for key, value in file.settings().items():
        if key not in known and value:
            raise BaseModelError(
                f"{file.path} sets {file.architecture.name}.{key} to {value!r}, which zfleet does not carry over",
                "use the model's Hugging Face folder",
            )


def _cannot(file: GgufFile, key: str, other: str) -> BaseModelError:
    value = _value(file, key)
    return BaseModelError(
        f"{file.path} sets {file.architecture.name}.{key} to {value!r}: zfleet converts only {other}",
        "use the model's Hugging Face folder",
    )


def _value(file: GgufFile, key: str, default: Any = None) -> Any:
    return file.get(f"{file.architecture.name}.{key}", default)


def _required(file: GgufFile, key: str, default: Any) -> Any:
    value = _value(file, key, default)
    # Some files have a list with a value for each layer.
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    if value is None or isinstance(value, list):
        raise BaseModelError(
            f"{file.path} says {value!r} for {file.architecture.name}.{key}: one number is needed", CONVERT
        )
    return value


def _whole(file: GgufFile, key: str, default: int | None = None) -> int:
    return int(_required(file, key, default))


def _real(file: GgufFile, key: str, default: float | None = None) -> float:
    # Stored as float32: 1e-05 instead of 9.999999747378752e-06, the same number to the model.
    value = float(str(np.float32(_required(file, key, default))))
    if not (math.isfinite(value) and value > 0):
        raise BaseModelError(
            f"{file.path} says {value} for {file.architecture.name}.{key}: a number above 0 is needed", CONVERT
        )
    return value


def _tensor(file: GgufFile, name: str) -> Any:
    if name not in file.tensors:
        raise BaseModelError(f"{file.path} holds no tensor {name}", CONVERT)
    return file.tensors[name]
