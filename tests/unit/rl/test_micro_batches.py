"""Which samples go through the model together: in one row, and in one micro-batch."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zfleet.config.learner import LearnerSpec
from zfleet.models.completions import micro_batches, row_length, rows_of_prompt
from zfleet.models.shared_prompt import PassCost, sharing_pays
from zfleet.models.svf_model import SvfModel
from zfleet.rl.batch import compare
from zfleet.rl.data_parallel import DataParallel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.gradient import summed_gradients
from zfleet.rl.micro_batches import pack
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import SvfWeights
from zfleet.tasks.task import Grade, Sample, Task
from zfleet.tasks.template import PromptTemplate

COST = PassCost(token=158_146_560, pair=34_560, window=None)
"""SmolLM2's, with factors of all its linears."""

LENGTHS = st.lists(st.integers(1, 50), max_size=30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(LENGTHS, st.integers(1, 200))
def test_micro_batches_hold_every_row_once_and_no_more_tokens_than_allowed(lengths: list[int], limit: int) -> None:
    packed = micro_batches(lengths, limit)
    assert sorted(place for some in packed for place in some) == list(range(len(lengths)))
    for some in packed:
        assert len(some) == 1 or len(some) * max(lengths[place] for place in some) <= limit
    if lengths and len(lengths) * max(lengths) <= limit:
        assert packed == [list(range(len(lengths)))], "what fits keeps its order"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 60), LENGTHS, st.integers(1, 200))
def test_rows_hold_every_completion_once_and_only_one_if_they_are_too_long(
    prompt: int, completions: list[int], limit: int
) -> None:
    rows = rows_of_prompt(COST, prompt, completions, limit)
    assert [place for row in rows for place in row] == list(range(len(completions)))
    for row in rows:
        assert len(row) == 1 or row_length(prompt, [completions[place] for place in row]) <= limit


def test_a_group_that_does_not_fit_is_split_and_a_group_of_one_is_a_row() -> None:
    assert rows_of_prompt(COST, 400, [8] * 8, 8192) == [list(range(8))]
    # Of a completion of 101 tokens 100 go through the model: 400 + 3 x 100 are 700.
    assert rows_of_prompt(COST, 400, [101] * 8, 700) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert rows_of_prompt(COST, 400, [101] * 3, 499) == [[0], [1], [2]]
    assert rows_of_prompt(COST, 400, [8], 8192) == [[0]]
    assert rows_of_prompt(COST, 400, [], 8192) == []


def test_sharing_pays_where_prompts_are_worth_more_than_the_attention_that_it_adds() -> None:
    assert sharing_pays(COST, 400, [7] * 8)
    assert sharing_pays(COST, 200, [256] * 4)
    assert not sharing_pays(COST, 1, [512] * 8), "a prompt of one token saves nothing"
    assert not sharing_pays(COST, 400, [7]), "there is nobody to share it with"
    # By hand, with a linear as dear as one pair in attention: one prompt of two saves 10 tokens; rectangles of 2 x 4
    # over 14, less what causal rows of 14 and a prompt of 10 take, are 2 x 56 + 50 - 196 < 0 pairs more.
    cheap = PassCost(token=1, pair=1, window=None)
    assert sharing_pays(cheap, 10, [4, 4])
    # A long completion beside a short one is padded: 2 x 40 x 50 + 50 - (2500 + 144) / 2 pairs more than apart.
    assert not sharing_pays(cheap, 10, [40, 2])
    more = 2 * 40 * 50 + 50 - (2500 + 144) / 2
    assert sharing_pays(replace(cheap, token=int(2 * more / 10) + 1), 10, [40, 2])
    assert not sharing_pays(replace(cheap, token=int(2 * more / 10) - 1), 10, [40, 2])


def test_prompts_are_not_shared_beyond_a_window() -> None:
    assert sharing_pays(replace(COST, window=407), 400, [7, 7])
    assert not sharing_pays(replace(COST, window=406), 400, [7, 7])


def test_the_cost_of_a_base_is_that_of_its_matrices(tiny_model: SvfModel) -> None:
    """Two layers of width 64: heads of 32 numbers, two for queries and one for keys, an MLP of 96; as factors."""
    query, key, mlp = 64 * (64 + 64), 32 * (32 + 64), 64 * (64 + 96)
    assert tiny_model.cost == PassCost(token=2 * (2 * query + 2 * key + 3 * mlp), pair=2 * 2 * 2 * 32, window=None)


def test_samples_of_one_prompt_and_one_expert_share_a_row(tiny_model: SvfModel) -> None:
    weights = SvfWeights(tiny_model)
    prompts, experts = [(7, 8, 9) * 9, (5, 6) * 9, (7, 8, 9) * 9, (7, 8, 9) * 9], [0, 0, 1, 0]
    rollouts = [_rollout(0, prompt, (10 + place, 20)) for place, prompt in enumerate(prompts)]
    (micro_batch,) = pack(weights, rollouts, experts, 1000)
    assert [row.prompt for row in micro_batch.rows] == [prompts[0], prompts[1], prompts[2]]
    assert micro_batch.experts == (0, 0, 1)
    assert micro_batch.samples == (0, 3, 1, 2)
    assert [row.completions for row in micro_batch.rows] == [((10, 20), (13, 20)), ((11, 20),), ((12, 20),)]


@pytest.mark.parametrize("limit", [10_000, 60, 1])
def test_the_gradient_does_not_depend_on_rows(
    tiny_model: SvfModel, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two experts with different temperatures and divergences, in micro-batches of any size; groups of many lengths."""
    weights = SvfWeights(tiny_model)
    specs = (
        LearnerSpec(samples_per_prompt=4, estimator="rloo", kl=0.3, temperature=0.7, micro_batch_tokens=limit),
        LearnerSpec(
            samples_per_prompt=4, estimator="rloo", kl=0.1, kl_over="base", kl_limit=9.0, micro_batch_tokens=limit
        ),
    )
    task = Task("none", (), (), PromptTemplate(), lambda completion, sample: Grade(0.0), 4)
    experts = [ExpertInTraining(weights, task, spec, str(number)) for number, spec in enumerate(specs)]
    with torch.no_grad():
        for number, expert in enumerate(experts):
            expert.p.add_(torch.randn(expert.p.shape, generator=torch.Generator().manual_seed(number)))
    batches = compare(weights, DataParallel(), experts, [_groups(number) for number in range(2)])

    def found(cost: PassCost) -> tuple[list[Tensor], Tensor, int]:
        monkeypatch.setitem(vars(tiny_model), "cost", cost)
        rows = pack(weights, batches[0].used, [0] * len(batches[0].used), limit)
        return *summed_gradients(weights, batches), max(len(row.completions) for one in rows for row in one.rows)

    dear = PassCost(token=10**9, pair=1, window=None)
    together, apart = found(dear), found(replace(dear, window=0))
    assert apart[2] == 1
    assert (together[2] > 1) == (limit > 1)
    for one, other in zip(together[0], apart[0], strict=True):
        assert float((one - other).abs().max()) <= 2e-5 * float(other.abs().max())
    assert together[1].tolist() == pytest.approx(apart[1].tolist(), rel=1e-5)
    assert float(apart[1].min()) > 0.1


def _groups(expert: int) -> list[Rollout]:
    chance = random.Random(expert)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(chance.randrange(5, 60) for _ in range(chance.randint(least, most)))

    return [
        _rollout(group, prompt, tokens(0, 9), chance.choice([-1.0, 1.0, 0.5]))
        for group in range(3)
        for prompt in [tokens(1, 12)]
        for _ in range(4)
    ]


def _rollout(group: int, prompt: tuple[int, ...], completion: tuple[int, ...], reward: float = 1.0) -> Rollout:
    return Rollout(Sample(str(group), ""), group, prompt, completion, "", Grade(reward))
