"""What passes allocate, traced on tensors without memory: of the same code, for any size, in seconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaConfig, PreTrainedConfig, Qwen3Config

from zfleet.memory.allocated import Allocated
from zfleet.memory.learner import LearnerMemory, Samples
from zfleet.memory.trace import TracedBase, step_peak
from zfleet.models.completions import Row

SHAPE: dict[str, Any] = {
    "vocab_size": 3000,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}


def base(config: PreTrainedConfig | None = None, layers: int = 7, dtype: torch.dtype = torch.float32) -> TracedBase:
    return TracedBase(config or LlamaConfig(**SHAPE, num_hidden_layers=layers), "all", dtype)


SMALL = base(layers=1)
"""Its models are built once."""


def rows(number: int, prompt: int = 30, answers: int = 1, answer: int = 20) -> list[Row]:
    return [Row((0,) * prompt, ((0,) * answer,) * answers)] * number


def step(traced: TracedBase, some: list[Row], recompute: bool = False, divergence: bool = False) -> int:
    return traced.step_bytes(some, experts=1, divergence=divergence, recompute=recompute)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("answers", [1, 4])
def test_bytes_are_affine_in_the_rows(answers: int, recompute: bool) -> None:
    first, second, third = (step(base(), rows(number, answers=answers), recompute) for number in (8, 16, 32))
    assert third - second == pytest.approx(2 * (second - first), rel=0.02)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
def test_few_layers_tell_of_many(kind: Any, recompute: bool) -> None:
    config = kind(**SHAPE, num_hidden_layers=9)
    traced = base(config)
    with FakeTensorMode():
        whole = step_peak(traced.new_model(9, recompute), rows(8), 1, False)
    assert step(traced, rows(8), recompute) == pytest.approx(whole, rel=0.01)


def test_running_layers_again_keeps_less_and_the_divergence_takes_more() -> None:
    plain = step(base(), rows(32))
    assert step(base(), rows(32), recompute=True) < plain / 2
    assert step(base(), rows(32), divergence=True) >= plain


def test_bfloat16_takes_about_half() -> None:
    ratio = step(base(dtype=torch.bfloat16), rows(32)) / step(base(), rows(32))
    assert 0.4 < ratio < 0.7


def test_sizes_are_those_of_the_matrices() -> None:
    sizes = base().sizes
    attention, mlp = (64 * 64, 32 * 64, 32 * 64, 64 * 64), (160 * 64,) * 3
    norms = 7 * 2 * 64 + 64
    assert sizes.weights == pytest.approx(4 * (7 * sum((*attention, *mlp)) + 2 * 3000 * 64 + norms), rel=1e-3)
    assert sizes.directions == 7 * (64 + 32 + 32 + 64 + 3 * 64)
    assert sizes.factors == 4 * 7 * (2 * 64 * 128 + 2 * 32 * 96 + 3 * 64 * 224)
    tied = TracedBase(LlamaConfig(**SHAPE, num_hidden_layers=7, tie_word_embeddings=True), "all", torch.float32)
    assert sizes.weights - tied.sizes.weights == 4 * 3000 * 64


def test_the_real_pass_allocates_what_the_fake_one_says() -> None:
    """On real tensors, counted in the same way: fake tensors on a CPU take the kernels that real ones take."""
    traced = base(layers=3)
    found = step_peak(traced.new_model(3, False), rows(8, answers=3), 1, False)
    assert found == step(traced, rows(8, answers=3))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.booleans())
def test_more_tokens_never_need_less(prompt: int, answer: int, each: int, recompute: bool) -> None:
    memory = LearnerMemory(SMALL, Samples(prompts=8, each=each, prompt=prompt, answer=answer))
    needed = [memory.activations(tokens, recompute) for tokens in (32, 128, 512)]
    assert needed == sorted(needed)


def test_a_sample_longer_than_a_micro_batch_is_counted_whole() -> None:
    memory = LearnerMemory(base(layers=2), Samples(prompts=4, each=1, prompt=200, answer=100))
    assert memory.activations(64, False) == memory.activations(300, False)
    assert memory.activations(600, False) > 1.5 * memory.activations(300, False)


def test_storages_count_until_they_are_freed_and_views_do_not() -> None:
    held = torch.ones(500)
    with Allocated([held]) as allocated:
        kept = torch.ones(1000)
        _ = held.view(5, 100) + 0
        del _
        _ = (kept[:10], kept.view(10, 100), held.t())
        more = torch.ones(300)
    assert allocated.peak == 4 * (1000 + 500)
    assert more.sum() == 300
