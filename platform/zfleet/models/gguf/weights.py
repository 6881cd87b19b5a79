"""The weights of a GGUF file, dequantised matrix by matrix into safetensors files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from zfleet.errors import BaseModelError
from zfleet.models.gguf.config import ROPE_FACTORS
from zfleet.models.gguf.read import CONVERT, FETCH, GgufFile
from zfleet.models.weight_files import write_weight_files
from zfleet.svf.streamed import Conversion

if TYPE_CHECKING:
    from gguf import ReaderTensor

FLOAT32_PARAMETERS = 2_000_000_000
"""Up to so many weights, dequantised numbers are stored in float32, beyond in bfloat16. docs/bases.md says why."""

_CHUNK_NUMBERS = 2**23
_SAME = {"F32": torch.float32, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class PlannedWeight:
    """One parameter of the base and the tensor that it comes from.

    Attributes:
        name: Of the parameter.
        tensor: In the GGUF file.
        shape: Of the parameter.
        dtype: That it is stored in.
        offset: Subtracted from it.
        interleaved: Heads whose rows are put back into order; 0 if they are in order.
    """

    name: str
    tensor: ReaderTensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: float = 0.0
    interleaved: int = 0

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return self.numbers * self.dtype.itemsize

    def as_conversion(self) -> Conversion:
        """Return it as a tensor to write, which is read when it is written."""
        return Conversion(self.dtype, self.shape, lambda: [self.read()])

    def read(self) -> Tensor:
        """Dequantise it; beside the result, a chunk of it is in memory.

        Raises:
            BaseModelError: A value is not finite.
        """
        from gguf import dequantize

        data = self.tensor.data
        weight = torch.empty(self.shape, dtype=self.dtype)
        rows = max(1, _CHUNK_NUMBERS // self.shape[-1]) if weight.ndim > 1 else self.shape[0]
        for start in range(0, self.shape[0], rows):
            part = data[start : start + rows] if weight.ndim > 1 else data
            # A copy: PyTorch warns of memory that cannot be written to, such as the mapped file's.
            numbers = np.array(dequantize(part, self.tensor.tensor_type), dtype=np.float32)
            if not np.isfinite(numbers).all():
                raise BaseModelError(f"{self.tensor.name} of the GGUF file holds NaN or infinite values", FETCH)
            weight[start : start + rows] = torch.from_numpy(numbers) - self.offset
        if self.interleaved:
            # [heads, d/2, 2, ...] in the file, [heads, 2, d/2, ...] in the base.
            pairs = weight.unflatten(0, (self.interleaved, -1, 2))
            weight = pairs.transpose(1, 2).flatten(0, 2).contiguous()
        return weight


def plan_weights(
    file: GgufFile, config: PreTrainedConfig, float32_parameters: int = FLOAT32_PARAMETERS
) -> list[PlannedWeight]:
    """Find the tensor of every parameter; no weight is read.

    Args:
        file: The GGUF file.
        config: Of the model in it.
        float32_parameters: Most weights that a file may have for its dequantised numbers to be stored in float32.

    Raises:
        BaseModelError: A tensor is missing, has another shape than the config says, or belongs to no parameter.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    sources = _gguf_names(file, config.num_hidden_layers, list(shapes))
    count = sum(math.prod(shape) for shape in shapes.values())
    dense = torch.float32 if count <= float32_parameters else torch.bfloat16
    planned = []
    for name, shape in shapes.items():
        tensor = file.tensors.get(sources[name])
        if tensor is None:
            raise BaseModelError(f"{file.path} holds no tensor {sources[name]}", CONVERT)
        if (stored := tuple(map(int, reversed(tensor.shape)))) != shape:
            raise BaseModelError(
                f"{sources[name]} in {file.path} is {list(stored)}, its metadata say {list(shape)}", CONVERT
            )
        dtype = _SAME.get(tensor.tensor_type.name, dense)
        offset = file.architecture.norm_offset if name.endswith("norm.weight") else 0.0
        planned.append(PlannedWeight(name, tensor, shape, dtype, offset, _interleaved(file, config, name)))
    if odd := sorted(file.tensors.keys() - set(sources.values()) - {ROPE_FACTORS}):
        raise BaseModelError(
            f"{file.path} holds {odd[0]}, which a {config.model_type} of these metadata does not have",
            "use the model's Hugging Face folder",
        )
    return planned


def write_weights(planned: list[PlannedWeight], folder: Path, advance: Callable[[int], object]) -> None:
    """Write the parameters, one in memory at a time, in files as ``write_weight_files`` does.

    Args:
        planned: All parameters.
        folder: Written here.
        advance: Called with the bytes of each parameter when it is done.

    Raises:
        BaseModelError: A value is not finite.
        OSError: The disk is full.
    """
    write_weight_files({one.name: one.as_conversion() for one in planned}, folder, advance)


def _gguf_names(file: GgufFile, layers: int, names: list[str]) -> dict[str, str]:
    """Map parameters to the names that their tensors have in a GGUF file of this architecture."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == file.architecture.name)
    known = get_tensor_name_map(architecture, layers)
    sources = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        sources[name] = f"{known.get_name(module)}.{leaf}"
    return sources


def _interleaved(file: GgufFile, config: PreTrainedConfig, name: str) -> int:
    if not file.architecture.interleaved:
        return 0
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return int(heads.get(name.rsplit(".", 2)[-2], 0))
