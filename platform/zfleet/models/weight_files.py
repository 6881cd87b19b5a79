"""Writing the weights of a base as Hugging Face's safetensors files, one parameter at a time in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from huggingface_hub import split_state_dict_into_shards_factory
from torch import Tensor

from zfleet.models.checkpoint import INDEX
from zfleet.svf.streamed import Conversion, write_tensors

_SHARD_BYTES = 2**30


def write_weight_files(
    weights: Mapping[str, Conversion],
    folder: Path,
    advance: Callable[[int], object],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights in files of 1 GiB at most, or of one weight; a part of one is in memory.

    Args:
        weights: {name in the files: the weight}.
        folder: Written here, with an index if there are several files.
        advance: Called with the bytes of each weight when it is done.
        metadata: Of each file, besides the format.

    Raises:
        OSError: The disk is full.
    """
    split = split_state_dict_into_shards_factory(
        dict(weights),
        get_storage_size=lambda weight: weight.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=_SHARD_BYTES,
    )
    for name, names in split.filename_to_tensors.items():
        with (folder / name).open("xb") as file:
            tensors = {one: _noted(weights[one], advance) for one in names}
            write_tensors(file, tensors, {"format": "pt", **(metadata or {})})
            file.flush()
            os.fsync(file.fileno())
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _noted(weight: Conversion, advance: Callable[[int], object]) -> Conversion:
    def parts() -> Iterable[Tensor]:
        yield from weight.parts()
        advance(weight.nbytes)

    return replace(weight, parts=parts)
