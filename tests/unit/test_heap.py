"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes

import psutil
import pytest

from zfleet.heap import trim_heap

BLOCKS, SIZE = 2000, 100_000


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the allocator is not glibc's")
def test_freed_blocks_below_one_in_use_go_back() -> None:
    """malloc itself gives back only what lies above the last block in use."""
    blocks = [bytearray(b"x") * SIZE for _ in range(BLOCKS)]
    last = bytearray(b"x") * SIZE
    blocks.clear()
    held = psutil.Process().memory_info().rss
    trim_heap()
    assert held - psutil.Process().memory_info().rss > BLOCKS * SIZE // 2
    assert last
