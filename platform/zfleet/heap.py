"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def trim_heap() -> None:
    """Give freed memory back, which glibc's ``malloc`` keeps for later; nothing where there is another allocator.

    Call it between phases that allocate in different sizes: blocks that one has left do not serve the next, and both
    would be held. It takes milliseconds, and pages that are used again are new ones.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
