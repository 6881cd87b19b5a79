"""Rollouts: which prompts are drawn, and what their answers depend on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.svf_model import SvfModel
from zfleet.rl.rollout import RolloutRequest, draw_prompts, roll_out, seed_of
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Grade, Sample
from zfleet.testing.solo import SPEC, vowels_task


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(0, 3), st.lists(st.integers(1, 7), min_size=1, max_size=12))
def test_each_epoch_draws_every_prompt_once(size: int, seed: int, counts: list[int]) -> None:
    samples = [Sample(str(place), "p") for place in range(size)]
    drawn: list[Sample] = []
    for count in counts:
        drawn += draw_prompts(samples, seed, len(drawn), count)
    assert len(drawn) == sum(counts)
    for epoch in range(len(drawn) // size):
        assert Counter(s.id for s in drawn[epoch * size : (epoch + 1) * size]) == Counter(s.id for s in samples)
    assert drawn == draw_prompts(samples, seed, 0, sum(counts))


def test_epochs_are_shuffled_anew() -> None:
    samples = [Sample(str(place), "p") for place in range(20)]
    orders = [tuple(s.id for s in draw_prompts(samples, seed, at, 20)) for seed, at in ((0, 0), (0, 20), (1, 0))]
    assert len(set(orders)) == 3


def test_seeds_differ_in_every_part() -> None:
    seeds = {seed_of(run, step, prompt, k) for run in (0, 1) for step in (0, 1) for prompt in "ab" for k in (0, 1)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_rollouts_do_not_depend_on_the_split(tiny_model: SvfModel, make_z: Callable[..., ZVector]) -> None:
    task = vowels_task()
    samples = [*task.train, *task.train[:2]]
    tokenizer = tiny_model.base.tokenizer
    with SyncEngine(TorchEngine(tiny_model, EngineSpec(slots=64))) as wide:
        z = wide.put_z(make_z(1))
        (whole,) = roll_out(wide, tokenizer, [RolloutRequest(task, SPEC, samples, 3, z)])
    with SyncEngine(TorchEngine(tiny_model, EngineSpec(slots=3))) as narrow:
        narrow.put_z(make_z(1))
        parts = []
        for start, end in ((7, 10), (0, 1), (1, 7)):
            parts += roll_out(
                narrow, tokenizer, [RolloutRequest(task, SPEC, samples[start:end], 3, z, first_group=start)]
            )[0]
    assert sorted(parts, key=lambda rollout: rollout.group) == whole
    assert len({rollout.completion for rollout in whole}) > len(samples), "nothing was sampled"
    twice = [rollout.completion for rollout in whole if rollout.sample.id == "s0"]
    assert twice[:4] != twice[4:], "a prompt that comes twice in a step got the same answers"


def test_the_random_reward_does_not_look_at_answers(tiny_model: SvfModel, engine: SyncEngine) -> None:
    def refuse(completion: str, sample: Sample) -> Grade:
        raise AssertionError("the task's reward was asked")

    spec = SPEC.model_copy(update={"reward": "random", "samples_per_prompt": 16})
    other = engine.put_z(_pushed(tiny_model))
    requests = [RolloutRequest(vowels_task(refuse), spec, vowels_task().train, 0, z) for z in ("base", other)]
    first, second = roll_out(engine, tiny_model.base.tokenizer, requests)
    assert [r.completion for r in first] != [r.completion for r in second]
    assert [r.grade for r in first] == [r.grade for r in second]
    counts = Counter(r.reward for r in first)
    assert counts.keys() == {1.0, -1.0}
    assert min(counts.values()) > 40


def _pushed(model: SvfModel) -> ZVector:
    flat = 1 + 0.5 * torch.randn(model.layout.size, generator=torch.Generator().manual_seed(1))
    return model.z_from_flat(flat)
