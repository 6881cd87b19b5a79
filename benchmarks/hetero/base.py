"""The base that everything is measured on: a Llama with random weights, built once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from zfleet.config.specs import BaseSpec
from zfleet.errors import BaseModelError, SpecError
from zfleet.files import write_folder
from zfleet.paths import cache_root

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]

_SPECIALS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Shape:
    """The dimensions of a Llama, and what it computes in.

    Attributes:
        hidden, intermediate, layers, heads, kv_heads, vocabulary: As in the Llama's configuration.
        head: Width of one head.
        dtype: Of weights and activations.
        device: Where it runs.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    dtype: Dtype
    device: Device

    @property
    def parameters(self) -> int:
        """Numbers in all weight matrices; embeddings and head are not tied."""
        attention = 2 * self.hidden * self.head * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + 2 * self.vocabulary * self.hidden

    @property
    def gib(self) -> float:
        """Memory of the weights."""
        return self.parameters * _BYTES[self.dtype] / 2**30


SHAPES = {
    # Llama-3-8B's proportions at an eighth of its width, with enough layers for 25 million parameters.
    "eighth": Shape(512, 1792, 7, 8, 2, 64, 2048, "float32", "cpu"),
    # SmolLM2-135M's dimensions; its embeddings are tied, these are not.
    "smollm2": Shape(576, 1536, 30, 9, 3, 64, 49152, "float32", "cpu"),
    # Llama-3-8B's own matrices: a quarter of its layers, and a quarter of its vocabulary so that the head keeps its
    # share of the work.
    "llama3-8b": Shape(4096, 14336, 8, 32, 8, 128, 32064, "bfloat16", "cuda"),
}

CONTEXT = 2048
"""Tokens the base takes; prompts and answers of the benchmark are much shorter."""

_SEED = 20
_COPIES_IN_MEMORY = 8
"""Weights, factors, their float64 SVD and one engine each, in copies of the weights: what building needs at most."""


def find_shape(name: str) -> Shape:
    """A shape by name, if this machine can run it.

    Raises:
        SpecError: No such shape.
        BaseModelError: No GPU where the shape needs one, or too little memory.
    """
    if name not in SHAPES:
        raise SpecError(f"--shape {name!r} is unknown", f"choose one of {', '.join(SHAPES)}")
    shape = SHAPES[name]
    if shape.device == "cuda" and not torch.cuda.is_available():
        raise BaseModelError(
            f"--shape {name} needs a GPU: torch sees none on this machine",
            "leave --shape out for the base that runs on a CPU, or run it where torch.cuda.is_available()",
        )
    free = psutil.virtual_memory().available / 2**30
    needed = shape.gib * _COPIES_IN_MEMORY
    if free < needed:
        raise BaseModelError(
            f"--shape {name} needs {needed:.0f} GiB of memory to build base and factors, {free:.0f} GiB are free",
            "leave --shape out for the base of 25 million parameters, or free memory",
        )
    return shape


def shape_of(folder: Path) -> Shape:
    """The dimensions of a base that is at hand: a Llama.

    Raises:
        SpecError: The folder holds no Llama.
    """
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, LlamaConfig):
        raise SpecError(f"--base {folder} is a {config.model_type}", "give the folder of a Llama")
    head = config.head_dim or config.hidden_size // config.num_attention_heads
    return Shape(
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads or config.num_attention_heads,
        head,
        config.vocab_size,
        "float32",
        "cpu",
    )


def build_base(shape: Shape) -> Path:
    """The Hugging Face folder of a base of this shape; built on the first call, found on later ones."""
    digest = hashlib.sha256(json.dumps({"seed": _SEED, **asdict(shape)}, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_root() / "benchmark" / f"llama-{shape.hidden}x{shape.layers}-{digest}"
    return write_folder(folder, lambda scratch: _write(shape, scratch))


def base_spec(shape: Shape, folder: Path, targets: str) -> BaseSpec:
    """The base as a zfleet spec names it."""
    return BaseSpec(model=str(folder), name="bench", targets=targets, device=shape.device, dtype=shape.dtype)


def _write(shape: Shape, folder: Path) -> None:
    tokenizer = _tokenizer(shape.vocabulary)
    specials = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        dtype=shape.dtype,
        **specials,
    )
    torch.manual_seed(_SEED)
    model = LlamaForCausalLM(config).to(getattr(torch, shape.dtype))
    config.save_pretrained(folder)
    GenerationConfig(**specials).save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word per id, so that any ids make a text; the benchmark's prompts are ids anyway."""
    words = [*_SPECIALS.values()]
    words += [f"w{index}" for index in range(len(words), vocabulary)]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT, **_SPECIALS)
