"""Canonical digests of tensors: the same numbers give the same digest on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def tensor_bytes(tensor: Tensor) -> memoryview:
    """View the tensor's values, row by row, little-endian; copied only if they are in another order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def digest_tensors(tensors: Mapping[str, Tensor], *header: str) -> str:
    """Compute sha256 over a header and, in order of name, each tensor's name, type, shape and bytes."""
    state = hashlib.sha256()
    for part in header:
        state.update(part.encode() + b"\0")
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        state.update(tensor_bytes(tensor))
    return state.hexdigest()


def combine_digests(base: str, targets: str, matrices: Iterable[str]) -> str:
    """Combine the digests of a base's matrices, in order, into that of all its factors."""
    return hashlib.sha256("\0".join([base, targets, *matrices]).encode()).hexdigest()
