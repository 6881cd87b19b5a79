"""What `auto` stands for, given memory that is linear in the tokens of a micro-batch."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.config.learner import LARGEST_MICRO_BATCH, LearnerSpec
from zfleet.config.specs import TrainSpec
from zfleet.memory.choose import ENOUGH_TOKENS, SIZES, USEFUL_BYTES, choose
from zfleet.memory.chosen import Chosen
from zfleet.memory.learner import LearnerMemory

MIB = 2**20


class Linear:
    """Memory of a learner whose activations are so many bytes a token, a tenth of it if layers run again.

    The real one is traced, in ``test_trace.py``; here the law is chosen so that the right answer can be computed.
    """

    def __init__(self, token: int, longest: int = 1) -> None:
        self.token, self.longest = token, longest

    def activations(self, tokens: int, recompute: bool) -> int:
        return max(tokens, self.longest) * self.token // (10 if recompute else 1)


def chosen(token: int, left: int, longest: int = 1, on_cpu: bool = True) -> Chosen:
    return choose(cast(LearnerMemory, Linear(token, longest)), "auto", "auto", left, on_cpu)


def test_a_small_base_keeps_the_largest_size() -> None:
    assert chosen(token=10_000, left=8 * 2**30) == Chosen(LARGEST_MICRO_BATCH, False)


def test_on_a_cpu_more_than_is_useful_is_not_taken() -> None:
    assert chosen(token=2 * MIB, left=64 * 2**30) == Chosen(USEFUL_BYTES // (2 * MIB), False)
    assert chosen(token=2 * MIB, left=64 * 2**30, on_cpu=False) == Chosen(LARGEST_MICRO_BATCH, False)


def test_a_large_base_has_enough_tokens_where_they_fit() -> None:
    assert chosen(token=20 * MIB, left=64 * 2**30) == Chosen(ENOUGH_TOKENS, False)


def test_layers_run_again_where_memory_is_so_scarce_that_it_wins() -> None:
    found = chosen(token=20 * MIB, left=2 * 2**30)
    assert found.recompute
    assert found.micro_batch_tokens >= ENOUGH_TOKENS
    assert not chosen(token=2 * MIB, left=300 * MIB).recompute


def test_layers_run_again_where_one_sample_would_not_fit() -> None:
    assert chosen(token=2 * MIB, left=1024 * MIB, longest=1024).recompute
    assert not chosen(token=2 * MIB, left=4096 * MIB, longest=1024).recompute


def test_given_values_stay() -> None:
    memory = cast(LearnerMemory, Linear(MIB))
    assert choose(memory, 777, False, 0, True) == Chosen(777, False)
    assert choose(memory, 777, True, 2**40, True) == Chosen(777, True)
    assert choose(memory, 777, "auto", 2**40, True) == Chosen(777, False)
    assert choose(memory, 777, "auto", 100 * MIB, True) == Chosen(777, True)
    assert choose(memory, "auto", False, 100 * MIB, True) == Chosen(96, False)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 64 * MIB), st.integers(0, 2**36), st.integers(1, 4096), st.booleans())
def test_more_memory_never_makes_smaller_micro_batches(token: int, left: int, longest: int, on_cpu: bool) -> None:
    memory = cast(LearnerMemory, Linear(token, longest))
    less, more = (choose(memory, "auto", False, some, on_cpu) for some in (left, 2 * left))
    assert less.micro_batch_tokens <= more.micro_batch_tokens
    taken = choose(memory, "auto", "auto", left, on_cpu)
    needed = memory.activations(taken.micro_batch_tokens, taken.recompute)
    assert needed <= left or taken.micro_batch_tokens == SIZES[0]


def test_auto_is_replaced_and_nothing_else() -> None:
    experts = [
        {"name": "one", "task": {"lab": "reverse"}},
        {"name": "two", "task": {"lab": "sort"}, "learner": {"micro_batch_tokens": 50}},
        {"name": "three", "task": {"lab": "add"}, "learner": {"micro_batch_tokens": "auto", "lr": 0.5}},
    ]
    spec = TrainSpec.model_validate({"experts": experts})
    resolved = Chosen(512, True).training(spec)
    assert [resolved.learner_of(one).micro_batch_tokens for one in resolved.experts] == [512, 50, 512]
    assert resolved.recompute is True
    assert resolved.learner_of(resolved.experts[2]).lr == 0.5
    given = TrainSpec.model_validate({"experts": experts[:1], "learner": {"micro_batch_tokens": 9}, "recompute": False})
    assert Chosen(512, True).training(given) == given


@pytest.mark.parametrize(("written", "limit"), [("auto", LARGEST_MICRO_BATCH), (17, 17)])
def test_the_limit_of_a_learner(written: object, limit: int) -> None:
    assert LearnerSpec.model_validate({"micro_batch_tokens": written}).micro_batch_limit == limit
