"""Training that begins at a z: every parametrisation gives back the z that it can have, and refuses the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zfleet.engine.blocking import SyncEngine
from zfleet.errors import InvalidZ, WrongBase
from zfleet.models.svf_model import SvfModel
from zfleet.rl.checkpoint import Checkpoint
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.parametrisation import PARAMETRISATIONS
from zfleet.rl.weights import SvfWeights
from zfleet.svf.factors import Factors, decompose
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.testing.solo import SPEC, vowels_task

few = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**20)
CPU = torch.device("cpu")
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"

MakeZ = Callable[..., ZVector]


def _factors() -> Factors:
    generator = torch.Generator().manual_seed(0)
    weights = {UP: torch.randn(6, 5, generator=generator), DOWN: torch.randn(3, 7, generator=generator)}
    return Factors({name: decompose(weight, torch.float32) for name, weight in weights.items()}, "base", "mlp")


FACTORS = _factors()


def _normal(seed: int, spread: float) -> Tensor:
    return spread * torch.randn(FACTORS.layout.size, generator=torch.Generator().manual_seed(seed))


@few
@given(st.sampled_from(sorted(PARAMETRISATIONS)), seeds, st.floats(0, 4))
def test_p_of_a_z_that_a_parametrisation_gave_has_that_z(name: str, seed: int, spread: float) -> None:
    shape = PARAMETRISATIONS[name](FACTORS, CPU)
    z = shape.z(shape.start() + _normal(seed, spread))
    p = shape.p(z)
    assert p.dtype == torch.float32
    assert torch.allclose(shape.z(p), z, rtol=5e-6, atol=0 if name != "direct" else 1e-6)


@few
@given(st.lists(seeds, min_size=1, max_size=4), st.data())
def test_sigmoid_has_every_mixture_of_its_own_experts_whose_values_are_above_zero(
    chosen: list[int], data: st.DataObject
) -> None:
    """Mixing keeps the sum of the singular values, whatever the alphas."""
    shape = PARAMETRISATIONS["sigmoid"](FACTORS, CPU)
    experts = [_zvector(shape.z(_normal(seed, 0.5))) for seed in chosen]
    alphas = [data.draw(st.floats(-0.2, 0.9 / len(chosen))) for _ in experts]
    mixture = mix(experts, alphas).flat(FACTORS.layout)
    assert bool((mixture > 0).all())
    assert torch.allclose(shape.z(shape.p(mixture)), mixture, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(PARAMETRISATIONS))
def test_the_base_is_where_training_begins_by_default(name: str) -> None:
    shape = PARAMETRISATIONS[name](FACTORS, CPU)
    assert torch.equal(shape.p(torch.ones(FACTORS.layout.size)), shape.start())
    assert torch.allclose(shape.z(shape.start()), torch.ones(FACTORS.layout.size), atol=1e-6)


@pytest.mark.parametrize("name", ["sigmoid", "exp"])
@pytest.mark.parametrize("value", [0.0, -0.25])
def test_values_that_are_not_above_zero_are_refused_with_their_matrix(name: str, value: float) -> None:
    z = torch.ones(FACTORS.layout.size)
    z[FACTORS.layout.slices[DOWN].start] = value
    with pytest.raises(InvalidZ, match=f"z of {DOWN} has the value {value:.6g}".replace(".", r"\.")) as refused:
        PARAMETRISATIONS[name](FACTORS, CPU).p(z)
    assert "`direct`" in refused.value.remedy
    assert torch.equal(PARAMETRISATIONS["direct"](FACTORS, CPU).p(z), z)


def test_a_z_that_changes_the_sum_of_singular_values_is_none_of_sigmoid() -> None:
    z = torch.ones(FACTORS.layout.size)
    z[FACTORS.layout.slices[DOWN]] *= 1.03
    with pytest.raises(InvalidZ, match=rf"z of {DOWN} changes the sum of its singular values by the factor 1\.03"):
        PARAMETRISATIONS["sigmoid"](FACTORS, CPU).p(z)
    shape = PARAMETRISATIONS["exp"](FACTORS, CPU)
    assert torch.allclose(shape.z(shape.p(z)), z)


def test_p_does_not_share_memory_with_z() -> None:
    z = torch.ones(FACTORS.layout.size)
    PARAMETRISATIONS["direct"](FACTORS, CPU).p(z).add_(1)
    assert bool((z == 1).all())


# In the learner


def _expert(weights: SvfWeights, parametrisation: str, z: ZVector) -> ExpertInTraining:
    spec = SPEC.model_copy(update={"steps": 4, "parametrisation": parametrisation, "kl": 0.1})
    return ExpertInTraining(weights, vowels_task(), spec, "vowels", start=weights.p(spec, z))


def test_the_first_answers_are_those_of_the_start_and_its_divergence_is_from_the_base(
    tiny_model: SvfModel, engine: SyncEngine, make_z: MakeZ
) -> None:
    weights, start = SvfWeights(tiny_model), make_z(1)
    expert = _expert(weights, "direct", start)
    learner = Learner(weights, engine, [expert])
    samples = learner.sample()
    assert {rollout.z_digest for batch in samples.batches for rollout in batch.rollouts} == {start.digest}
    (report,) = learner.learn(samples)
    assert report.kl > 0.1, "the reference is the start, not the base"
    learner.close()


def test_it_resumes_bit_for_bit(tiny_model: SvfModel, engine: SyncEngine, make_z: MakeZ) -> None:
    weights, start = SvfWeights(tiny_model), make_z(1, 0.1)

    def learned(expert: ExpertInTraining, steps: int) -> ExpertInTraining:
        learner = Learner(weights, engine, [expert])
        for _ in range(steps):
            learner.step()
        learner.close()
        return expert

    whole = learned(_expert(weights, "exp", start), 4)
    half = learned(_expert(weights, "exp", start), 2).checkpoint().to_bytes()
    resumed = _expert(weights, "exp", start)
    resumed.restore(Checkpoint.from_bytes(half, "half", ""))
    assert torch.equal(learned(resumed, 2).p, whole.p)
    assert not torch.equal(whole.p, weights.p(whole.spec, start)), "nothing was learned"
    assert whole.start is not None
    assert torch.equal(whole.start, weights.p(whole.spec, start)), "a step changed the start"


def test_a_start_of_another_base_is_refused(tiny_model: SvfModel, make_z: MakeZ) -> None:
    weights = SvfWeights(tiny_model)
    with pytest.raises(WrongBase, match="belongs to base"):
        weights.p(SPEC, replace(make_z(1), base="0" * 64))
    with pytest.raises(WrongBase, match="factors"):
        weights.p(SPEC, replace(make_z(1), factors="0" * 64))


def _zvector(flat: Tensor) -> ZVector:
    return ZVector(FACTORS.layout.split(flat), FACTORS.base, FACTORS.digest, FACTORS.targets)
