"""The table of a process: what adds up, and what is refused in which words."""

from __future__ import annotations

import logging

import pytest

from zfleet.errors import SpecError
from zfleet.memory.keys import TRAIN_KEYS
from zfleet.memory.table import MemoryTable, Part, Room

GIB = 2**30
PARTS = (
    Part("weights", 2 * GIB, ""),
    Part("the process itself", GIB, ""),
    Part("a pass over prompts", 3 * GIB, "", "generating"),
    Part("a micro-batch", GIB, "", "learning"),
)


def test_phases_that_take_turns_do_not_add_up() -> None:
    assert MemoryTable("a worker", PARTS).peak == 6 * GIB
    assert MemoryTable("a worker", PARTS, together=True).peak == 7 * GIB


def test_what_can_never_fit_is_refused_with_the_largest_parts_and_the_keys() -> None:
    with pytest.raises(SpecError) as refused:
        MemoryTable("a worker", PARTS).check(Room(5 * GIB, 4 * GIB, "the machine's memory"), TRAIN_KEYS)
    assert refused.value.message == (
        "a worker needs 6.00 GiB of memory (a pass over prompts 3.00 GiB, weights 2.00 GiB, the process itself "
        "1.00 GiB), and has 5.00 GiB: the machine's memory"
    )
    for key in ("micro_batch_tokens", "engine.slots", "engine.max_length", "max_tokens", "concurrent_experts"):
        assert key in refused.value.remedy
    assert "recompute" in refused.value.remedy
    assert "base.dtype" in refused.value.remedy


def test_resources_memory_below_the_weights_is_refused_with_what_it_must_be() -> None:
    with pytest.raises(SpecError, match=r"has 1\.00 GiB: that is resources\.memory") as refused:
        MemoryTable("a worker", PARTS).check(Room(GIB, GIB, "that is resources.memory", asked=True), TRAIN_KEYS)
    assert "raise resources.memory to 6.0 or more" in refused.value.remedy
    assert "3.00 GiB are held whatever the settings" in refused.value.remedy
    assert "engine.slots" not in refused.value.remedy, "lowering it could not help"
    assert "bfloat16" not in refused.value.remedy, "half of 3 GiB is too much, too"


def test_bfloat16_is_proposed_where_it_can_help() -> None:
    with pytest.raises(SpecError) as refused:
        MemoryTable("a worker", PARTS).check(Room(2 * GIB, GIB, "the machine's memory"), TRAIN_KEYS)
    assert "set base.dtype to bfloat16: 3.00 GiB are held" in refused.value.remedy


def test_a_service_is_refused_only_for_what_it_always_holds() -> None:
    room = Room(4 * GIB, 8 * GIB, "the machine's memory")
    MemoryTable("a replica", PARTS).check(room, TRAIN_KEYS, always=True)
    with pytest.raises(SpecError, match=r"a replica needs 3\.00 GiB"):
        MemoryTable("a replica", PARTS).check(Room(2 * GIB, GIB, "x"), TRAIN_KEYS, always=True)


def test_what_does_not_fit_now_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        MemoryTable("a worker", PARTS).check(Room(8 * GIB, 5 * GIB, "the machine's memory"), TRAIN_KEYS)
    assert "a worker needs up to 6.00 GiB" in caplog.text
    assert "5.00 GiB are free for it now" in caplog.text
