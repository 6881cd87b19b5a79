"""What one training of an experiment takes is measured, and told in words where there is not enough."""

from __future__ import annotations

import pytest
import torch

from zfleet.errors import JobError
from zfleet.memory.exhausted import enough_memory
from zfleet_jobs.compare.memory import Memory

MIB = 2**20


def test_what_is_held_and_the_most_at_once_are_above_what_was_there_before() -> None:
    before = torch.ones(64 * MIB, dtype=torch.uint8)
    memory = Memory("cpu")
    opened = torch.ones(128 * MIB, dtype=torch.uint8)
    gone = torch.ones(64 * MIB, dtype=torch.uint8)
    del gone
    held = memory.held()
    step = torch.ones(64 * MIB, dtype=torch.uint8)
    del step
    assert held == pytest.approx(128, abs=24)
    assert memory.peak() == pytest.approx(192, abs=24)
    assert before.sum() + opened.sum() == 192 * MIB


def test_memory_that_runs_out_is_told_in_words() -> None:
    with pytest.raises(JobError, match=r"not enough memory: .*DefaultCPUAllocator") as caught, enough_memory():
        torch.empty(2**60, dtype=torch.uint8)
    assert "learner.micro_batch_tokens" in caught.value.remedy
    with pytest.raises(JobError, match="not enough memory: CUDA"), enough_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore of it")
    with pytest.raises(RuntimeError, match="something else"), enough_memory():
        raise RuntimeError("something else")
