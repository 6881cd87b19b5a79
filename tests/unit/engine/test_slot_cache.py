"""The key-value cache of the embedded engine."""

from __future__ import annotations

import pytest
import torch

from zfleet.engine.torch_engine import slot_cache
from zfleet.engine.torch_engine.slot_cache import SlotCache


def _prompt(cache: SlotCache, slots: int, length: int) -> None:
    cache.prefill(0, slots, length)
    cache.update(torch.ones(slots, 1, length, 2), torch.ones(slots, 1, length, 2), 0)


def test_memory_that_runs_out_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SlotCache()
    _prompt(cache, 2, 4)
    grown = slot_cache._grown
    calls = []

    def runs_out(tensor: torch.Tensor, slots: int, length: int) -> torch.Tensor:
        calls.append(slots)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return grown(tensor, slots, length)

    monkeypatch.setattr(slot_cache, "_grown", runs_out)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache.prefill(0, 64, 64)
    _prompt(cache, 2, 4)
    cache.decode(torch.tensor([3, 1]))
    keys, _ = cache.update(torch.full((2, 1, 1, 2), 5.0), torch.full((2, 1, 1, 2), 5.0), 0)
    assert keys[0, 0, :, 0].tolist() == [1, 1, 1, 5]
    assert keys[1, 0, :, 0].tolist() == [1, 5, 1, 1]
