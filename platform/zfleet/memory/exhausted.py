"""Memory that ran out, in words: what was missing, and which keys of a spec lower it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zfleet.errors import JobError
from zfleet.memory.keys import TRAIN_KEYS


@contextmanager
def enough_memory() -> Iterator[None]:
    """Say in words that memory ran out, which PyTorch says in several ways.

    Raises:
        JobError: It ran out inside the block.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU, PyTorch raises a plain RuntimeError that names the allocator.
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise JobError(
            f"not enough memory: {next(iter(str(error).splitlines()), 'allocation failed')}",
            f"lower {TRAIN_KEYS}; or give it more memory",
        ) from error
