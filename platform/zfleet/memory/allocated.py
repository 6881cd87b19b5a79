"""Counts what tensors take while some work runs, on fake tensors as on real ones.

PyTorch's own ``torch.distributed._tools.mem_tracker`` counts in the same way, but cannot follow a model whose
parameters are frozen: it registers a gradient hook on each.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class Allocated(TorchDispatchMode):
    """Inside this mode, every storage that an operation makes is counted until it is freed.

    Attributes:
        peak: The most bytes at once.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        """Count from here on.

        Args:
            held: Tensors that are there already and do not count.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known: Any = WeakIdKeyDictionary()
        for tensor in held:
            self._known[tensor.untyped_storage()] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it returns; views of what is known add nothing."""
        out = func(*args, **(kwargs or {}))
        for result in tree_leaves(out):
            if isinstance(result, Tensor):
                self._count(result.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = None
        weakref.finalize(storage, self._freed, size)
        self._now += size
        self.peak = max(self.peak, self._now)

    def _freed(self, size: int) -> None:
        self._now -= size
