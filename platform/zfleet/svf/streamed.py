"""Writing safetensors files tensor by tensor, in parts: what is written may be bigger than the memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from zfleet.svf.digest import tensor_bytes
from zfleet.svf.stored import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 64
"""Bytes: of a cache line, and of PyTorch's own tensors."""
_ROWS = 1024


@dataclass(frozen=True)
class Conversion:
    """A tensor that can be computed in parts.

    Attributes:
        dtype: What it is computed to.
        shape: Its sizes.
        parts: Computes its values in order, in tensors of any sizes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: Callable[[], Iterable[Tensor]]

    @classmethod
    def by_rows(
        cls, tensor: Tensor, dtype: torch.dtype, change: Callable[[Tensor], Tensor] = lambda rows: rows
    ) -> Conversion:
        """Convert a tensor some rows at a time, so that it is never in memory twice.

        Args:
            tensor: Of any number of dimensions.
            dtype: The new type.
            change: Changes the values of some rows first, one by one.
        """
        # A tensor of no dimensions has no rows to split.
        rows = tensor.split(_ROWS) if tensor.ndim else (tensor,)
        return cls(dtype, tuple(tensor.shape), lambda: (change(part).to(dtype) for part in rows))

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def compute(self) -> Tensor:
        """Compute it, in memory."""
        return torch.cat([part.reshape(-1) for part in self.parts()]).reshape(self.shape)


def write_tensors(file: BinaryIO, tensors: Mapping[str, Conversion], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file into an open one; one part of a tensor at a time is in memory.

    Args:
        file: Open for writing, and empty.
        tensors: By name.
        metadata: For the file's header.

    Returns:
        The sha256 of all bytes after the header.

    Raises:
        OSError: The disk is full.
    """
    # The sizes of most tensors are multiples of the alignment; others come last, so that they shift nothing.
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1].nbytes % _ALIGNMENT != 0))
    file.write(_header(ordered, metadata))
    state = hashlib.sha256()
    for part in _bytes(ordered):
        state.update(part)
        file.write(part)
    return state.hexdigest()


def _header(tensors: Mapping[str, Conversion], metadata: Mapping[str, str]) -> bytes:
    fields: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, tensor in tensors.items():
        offsets = [start, start + tensor.nbytes]
        fields[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        start += tensor.nbytes
    text = json.dumps(fields).encode()
    # The format allows blanks at the end.
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensors: Mapping[str, Conversion]) -> Iterator[memoryview]:
    for tensor in tensors.values():
        for part in tensor.parts():
            yield tensor_bytes(part)
