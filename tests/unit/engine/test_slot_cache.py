"""The key-value cache of the embedded engine."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zfleet.engine.torch_engine import slot_cache
from zfleet.engine.torch_engine.slot_cache import SlotCache


def _prompt(cache: SlotCache, slots: int, length: int) -> None:
    cache.prefill(0, slots, length)
    cache.update(torch.ones(slots, 1, length, 2), torch.ones(slots, 1, length, 2), 0)


_TOKEN = 2 * 1 * 2 * 4
"""Bytes of the keys and values of a token here: one head of two numbers."""


def _numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _all(cache: SlotCache, slots: int, length: int) -> torch.Tensor:
    """Keys of the first slots up to a length, read as a step reads them; its own tokens are zeros behind."""
    cache.decode(torch.full((slots,), length))
    keys, values = cache.update(torch.zeros(slots, 1, 1, 2), torch.zeros(slots, 1, 1, 2), 0)
    assert torch.equal(keys, values)
    return keys[:, :, :length]


def test_prompts_fill_the_slots_of_all_their_answers() -> None:
    cache, prompts = SlotCache(64), _numbers(2, 1, 3, 2)
    cache.prefill(1, 3, 3, torch.tensor([0, 0, 1]))
    returned, _ = cache.update(prompts, prompts, 0)
    assert torch.equal(returned, prompts)
    assert torch.equal(_all(cache, 4, 3)[1:], prompts[[0, 0, 1]])


def test_a_prompt_in_pieces_sees_all_before_it_and_is_taken_over() -> None:
    piecewise, whole = SlotCache(64), _numbers(1, 1, 7, 2)
    for start, end in ((0, 3), (3, 5), (5, 7)):
        piecewise.extend(start, end - start)
        assert piecewise.get_seq_length() == start
        keys, _ = piecewise.update(whole[:, :, start:end], whole[:, :, start:end], 0)
        assert torch.equal(keys, whole[:, :, :end])
    cache, others = SlotCache(64), _numbers(2, 1, 4, 2, seed=1)
    cache.take(piecewise, 2, 3)
    cache.prefill(0, 2, 4)
    cache.update(others, others, 0)
    filled = _all(cache, 5, 7)
    assert torch.equal(filled[:2, :, :4], others)
    assert torch.equal(filled[2:], whole.expand(3, -1, -1, -1))


def test_prompts_are_copied_from_slots_that_go_on() -> None:
    cache, prompts = SlotCache(64), _numbers(2, 1, 3, 2)
    cache.prefill(0, 2, 3)
    cache.update(prompts, prompts, 0)
    cache.copy([1, 0, 1], 2, 3)
    assert torch.equal(_all(cache, 5, 3), prompts[[0, 1, 1, 0, 1]])


def test_memory_that_runs_out_leaves_the_sequences_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SlotCache(64)
    _prompt(cache, 2, 4)
    grown = SlotCache._grown
    calls = []

    def runs_out(self: SlotCache, tensor: torch.Tensor, slots: int, length: int) -> torch.Tensor:
        calls.append(slots)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return grown(self, tensor, slots, length)

    monkeypatch.setattr(SlotCache, "_grown", runs_out)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache.prefill(0, 32, 100)
    _prompt(cache, 2, 4)
    cache.decode(torch.tensor([3, 1]))
    keys, _ = cache.update(torch.full((2, 1, 1, 2), 5.0), torch.full((2, 1, 1, 2), 5.0), 0)
    assert keys[0, 0, :, 0].tolist() == [1, 1, 1, 5]
    assert keys[1, 0, :, 0].tolist() == [1, 5, 1, 1]
    # The layers that grew do so again, though only in one direction now.
    cache.prefill(2, 4, 4)
    assert _all(cache, 2, 4)[0, 0, :, 0].tolist() == [1, 1, 1, 5]


@given(
    asked=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 400)), min_size=1, max_size=12),
)
def test_a_cache_has_room_for_what_is_asked_and_little_more(asked: list[tuple[int, int]]) -> None:
    cache, slots, length = SlotCache(8), 0, 0
    for some, tokens in asked:
        _prompt(cache, some, tokens)
        slots, length = max(slots, some), max(length, tokens)
        assert cache.nbytes >= slots * length * _TOKEN
        assert cache.nbytes <= min(2 * slots, 8) * (1.125 * length + 2 * slot_cache.LENGTH_STEP) * _TOKEN


def test_a_cache_that_is_released_takes_nothing_and_begins_anew() -> None:
    cache = SlotCache(8)
    _prompt(cache, 8, 100)
    cache.release()
    assert cache.nbytes == 0
    _prompt(cache, 2, 3)
    assert cache.nbytes == 2 * slot_cache.LENGTH_STEP * _TOKEN
