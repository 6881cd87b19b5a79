"""Matrices in safetensors files: each is read by itself, and nothing else is.

safetensors' own reader maps the whole file into memory that counts as the process's own: under a limit on memory
(RLIMIT_DATA) a file of several gigabytes could not be opened for the sake of one matrix.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from zfleet.errors import BaseModelError
from zfleet.svf.layout import ZLayout

WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What weights that are not quantized are stored in. Bytes of other types mean nothing without their scales."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The types of tensors by their names in safetensors files."""

_FETCH = "fetch the base again"


@dataclass(frozen=True)
class Entry:
    """One tensor of a safetensors file, by its header.

    Attributes:
        dtype: Its type; None if PyTorch has none for it.
        shape: Its sizes.
        start: Offset of its bytes in the file.
        size: In bytes.
    """

    dtype: torch.dtype | None
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class StoredMatrix:
    """One matrix W [m, n] of a base, in a file.

    Attributes:
        name: Module path of its linear.
        file: The safetensors file that holds it.
        key: Its name in the file.
        shape: m and n.
        dtype: That it is stored in.
    """

    name: str
    file: Path
    key: str
    shape: tuple[int, int]
    dtype: torch.dtype

    def read(self) -> Tensor:
        """Read W [m, n] in float32, as the base has it when it is loaded in float32.

        Raises:
            BaseModelError: The file is not there or damaged, or holds another matrix by now.
        """
        try:
            with self.file.open("rb") as file:
                entry = entries_of(file, self.file).get(self.key)
                if entry is None or (entry.shape, entry.dtype) != (self.shape, self.dtype):
                    raise BaseModelError(f"{self.file} holds no {self.key} {self.shape} any more", _FETCH)
                data = bytearray(entry.size)
                file.seek(entry.start)
                if file.readinto(data) != entry.size:
                    raise BaseModelError(f"{self.file} is truncated", _FETCH)
        except OSError as error:
            raise BaseModelError(f"{self.file} cannot be read: {error}", _FETCH) from error
        return torch.frombuffer(data, dtype=self.dtype).reshape(self.shape).to(torch.float32)


@dataclass(frozen=True)
class TargetMatrices:
    """The matrices that the factors of a base are computed from.

    Attributes:
        base: Fingerprint of the base.
        targets: Which of its matrices were chosen.
        matrices: In the order of the base's modules.
    """

    base: str
    targets: str
    matrices: tuple[StoredMatrix, ...]

    @property
    def layout(self) -> ZLayout:
        """What a z on their factors looks like, known before anything is decomposed."""
        return ZLayout(tuple(one.name for one in self.matrices), tuple(min(one.shape) for one in self.matrices))


def read_entries(path: Path) -> dict[str, Entry]:
    """Read {key: entry} of a safetensors file, from its header alone.

    Raises:
        BaseModelError: The file cannot be read, or is truncated or damaged.
    """
    try:
        with path.open("rb") as file:
            return entries_of(file, path)
    except OSError as error:
        raise BaseModelError(f"{path} cannot be read: {error}", _FETCH) from error


def entries_of(file: BinaryIO, path: Path) -> dict[str, Entry]:
    """As ``read_entries``, of a file that is open at its start.

    Args:
        file: The file.
        path: Names it in errors.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    entries: dict[str, Entry] = {}
    last = 0
    try:
        if 8 + length > size:
            raise ValueError("its header is longer than the file")
        for key, fields in json.loads(file.read(length)).items():
            if key == "__metadata__":
                continue
            start, end = map(int, fields["data_offsets"])
            shape = tuple(map(int, fields["shape"]))
            if not 0 <= start <= end <= size - 8 - length:
                raise ValueError(f"{key} lies outside the file")
            dtype = DTYPES.get(fields["dtype"])
            if dtype is not None and end - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{key} has other bytes than its shape")
            entries[key] = Entry(dtype, shape, 8 + length + start, end - start)
            last = max(last, end)
        if 8 + length + last != size:
            raise ValueError("it has other bytes than its header says")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseModelError(f"{path} is truncated or damaged: {error}", _FETCH) from error
    return entries
