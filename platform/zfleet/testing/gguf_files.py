"""GGUF files of tiny bases, with the changes that llama.cpp's conversion scripts make to a model's weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, TokenType, get_tensor_name_map, quantize
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

_ARCHITECTURES = {"mistral": "llama", "phi": "phi2"}
"""By ``model_type``, where GGUF's name is another one."""

Tensors = dict[str, tuple[NDArray[Any], str]]


def save_gguf(
    base: Path,
    file: Path,
    kind: str = "F32",
    pre: str = "gpt-2",
    keys: Callable[[GGUFWriter], None] = lambda _: None,
    tensors: Callable[[Tensors], None] = lambda _: None,
    architecture: str | None = None,
) -> Path:
    """Write a base folder as a GGUF file.

    Args:
        base: One of ``save_tiny``, with a tokenizer of kind "byte-level" or "byte-fallback".
        file: Written here.
        kind: What matrices are stored in: a type that the gguf package quantises.
        pre: How a byte-level tokenizer splits text.
        keys: Called with the writer: adds or replaces metadata.
        tensors: Called with {name: (float32 numbers, type)} before they are written: changes them.
        architecture: ``general.architecture``; by default the one of the base's family.
    """
    model = AutoModelForCausalLM.from_pretrained(base)
    config = model.config
    name = architecture or _ARCHITECTURES.get(config.model_type, config.model_type)
    writer = GGUFWriter(file, name)
    _add_config(writer, config)
    _add_tokenizer(writer, PreTrainedTokenizerFast.from_pretrained(base), pre)
    keys(writer)
    written: Tensors = {}
    known = get_tensor_name_map(
        next(key for key, value in MODEL_ARCH_NAMES.items() if value == name), config.num_hidden_layers
    )
    for parameter, weight in model.named_parameters():
        module, _, leaf = parameter.rpartition(".")
        numbers = _as_llama_cpp(weight.detach().numpy(), parameter, config, name)
        written[f"{known.get_name(module)}.{leaf}"] = numbers, kind if numbers.ndim > 1 else "F32"
    tensors(written)
    for tensor, (numbers, of_kind) in written.items():
        quantisation = GGMLQuantizationType[of_kind]
        writer.add_tensor(tensor, quantize(numbers, quantisation), raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_config(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    rope = config.rope_parameters
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(config.layer_norm_eps)


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, pre: str) -> None:
    words = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    added = tokenizer.added_tokens_decoder
    spelled = "<0x00>" in tokenizer.get_vocab()

    def kind(word: str, token: int) -> TokenType:
        if token in added:
            return TokenType.CONTROL if added[token].special else TokenType.USER_DEFINED
        return TokenType.BYTE if spelled and word.startswith("<0x") else TokenType.NORMAL

    writer.add_tokenizer_model("llama" if spelled else "gpt2")
    writer.add_tokenizer_pre("default" if spelled else pre)
    writer.add_token_list([word for word, _ in words])
    writer.add_token_types([kind(word, token) for word, token in words])
    if spelled:
        writer.add_token_scores([-float(token) for _, token in words])
    else:
        writer.add_token_merges([" ".join(pair) for pair in _merges(tokenizer)])
    for special, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id)):
        if (token := getattr(tokenizer, f"{special}_token_id")) is not None:
            add(token)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _merges(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return merges


def _as_llama_cpp(weight: NDArray[Any], name: str, config: PreTrainedConfig, architecture: str) -> NDArray[Any]:
    """Change a weight as llama.cpp's conversion does: rows of q and k in turns (Llama), norms plus one (Gemma)."""
    if architecture == "gemma" and name.endswith("norm.weight"):
        return np.asarray(weight + np.float32(1))
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if architecture != "llama" or heads is None:
        return weight
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
