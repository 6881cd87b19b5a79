"""The benchmark of interference on the tiny base: what it measures is what the engine answers."""

from __future__ import annotations

import pytest

from interference import MeasuredPair, correlate, measure_pairs, train_experts
from zfleet.config.learner import LearnerSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z
from zfleet.evaluate.graded import evaluate
from zfleet.evaluate.interference import measure_shortfall
from zfleet.models.svf_model import SvfModel
from zfleet.rewards.text import Regex
from zfleet.svf.mixture import mix
from zfleet.tasks.task import Sample, Task
from zfleet.tasks.template import PromptTemplate


def _task(name: str, pattern: str) -> Task:
    samples = tuple(Sample(f"{name}/{place}", f"{name} {word}") for place, word in enumerate(("ab", "cde", "xyz", "q")))
    return Task(name, samples, samples, PromptTemplate(), Regex(pattern), max_tokens=4)


def test_each_pair_is_mixed_and_measured_on_both_tasks(tiny_model: SvfModel, engine: SyncEngine) -> None:
    tasks = {name: _task(name, pattern) for name, pattern in (("flip", "[aeiou]"), ("sort", "[0-9]"), ("add", "[a-m]"))}
    experts = train_experts(tiny_model, engine, tasks, LearnerSpec(steps=1, prompts_per_step=4))
    known = engine.stats().known_z
    pairs = measure_pairs(tiny_model, engine, tasks, experts)
    assert list(pairs) == [("flip", "sort"), ("flip", "add"), ("sort", "add")]
    assert engine.stats().known_z == known, "a mixture was left in the engine"
    both = engine.put_z(mix([experts["flip"], experts["add"]], [1.0, 1.0]))
    ways = [
        evaluate(engine, tiny_model.base.tokenizer, tasks["add"], tasks["add"].test, z).graded
        for z in (BASE_Z, engine.put_z(experts["add"]), both)
    ]
    assert pairs["flip", "add"].shortfalls["add"] == measure_shortfall(*ways)
    assert all(pair.shortfalls.keys() == set(names) for names, pair in pairs.items())


def test_predictions_are_correlated_with_the_mean_shortfall() -> None:
    def pair(cosine: float, larger: float, **lost: int) -> MeasuredPair:
        rewards = {name: [-1.0] * count + [1.0] * (10 - count) for name, count in lost.items()}
        shortfalls = {name: measure_shortfall([-1.0] * 10, [1.0] * 10, one) for name, one in rewards.items()}
        return MeasuredPair(cosine, 1 - cosine, dict(zip(lost, (larger, 1 / larger), strict=True)), shortfalls)

    pairs = {
        ("a", "b"): pair(0.1, 2.0, a=7, b=4),
        ("a", "c"): pair(0.2, 3.0, a=8, c=1),
        ("b", "c"): pair(0.3, 1.5, b=5, c=3),
    }
    assert [one.shortfall for one in pairs.values()] == pytest.approx([0.55, 0.45, 0.4])
    found = correlate(pairs)
    assert [estimate.mean for estimate in found.values()] == pytest.approx([-1, 1, 33 / 35])
    assert all(estimate.low is None for estimate in found.values()), "three experts have no interval"
