"""The engine's cache grows as it is planned."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from zfleet.engine.torch_engine.schedule import PASS_TOKENS
from zfleet.engine.torch_engine.slot_cache import SlotCache
from zfleet.memory.engine import Answers, grown

SLOTS = 12
TOKEN = 2 * 4
"""Bytes of the keys and values of a token: one layer of one head of one number."""


@given(slots=st.integers(1, SLOTS), prompt=st.integers(1, 900), answer=st.integers(1, 200))
def test_a_cache_grows_as_planned(slots: int, prompt: int, answer: int) -> None:
    """As many prompts begin as fit into a pass, then the next ones; all answers are as long as they may be."""
    cache, together, first = SlotCache(SLOTS), max(PASS_TOKENS // prompt, 1), 0
    while first < slots:
        count = min(together, slots - first)
        cache.prefill(first, count, prompt)
        keys = torch.zeros(count, 1, prompt, 1)
        cache.update(keys, keys, 0)
        first += count
    # The last token is sampled and not computed.
    for length in range(prompt, prompt + answer - 1):
        cache.decode(torch.full((slots,), length))
    planned_slots, planned_length = grown(Answers(slots, prompt, answer), SLOTS)
    assert cache.nbytes == planned_slots * planned_length * TOKEN
