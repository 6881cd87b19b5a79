"""Several workers, one batch: each takes whole prompts, and sums travel by all-reduce."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class DataParallel:
    """This worker's place among those that train one expert.

    Attributes:
        rank: From 0.
        size: How many there are; alone, nothing is sent.
    """

    rank: int = 0
    size: int = 1

    def share(self, prompts: Sequence[T]) -> tuple[int, Sequence[T]]:
        """Return the number of this worker's first prompt, and its prompts: whole ones, so that no group is split."""
        each = -(-len(prompts) // self.size)
        start = min(self.rank * each, len(prompts))
        return start, prompts[start : start + each]

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all workers, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor
