"""One update as the reference implementation makes it, done densely here, and the same one of the learner.

Per sample the reference implementation's loss is - reward * sum of log p(token) + kl_ref_coeff * KL, divided by the
number of samples (``optim_modules.py``, ``Reinforce.step_optimization``). It runs back into the dense W' of each
matrix, and from there through W' = U diag(s * mask) Vh * sum(s) / sum(s * mask), mask = sigmoid(p) * max_mult, into p
(``utils.py``, ``compose_new_params`` and ``backward``). ``Reinforce.update`` clips the norm of the gradients of all p
together and takes a step of Adam.

The learner makes that very step with ``estimator: reinforce``, ``parametrisation: sigmoid``, ``temperature: 1`` and
``kl_over: base``: the reference implementation's KL is the sum over tokens and vocabulary of
base * (log base - log policy), that is KL(base || policy).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from zfleet.config.learner import LearnerSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.models.base import Base, load_base
from zfleet.models.matrices import target_matrices
from zfleet.models.svf_model import SvfModel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import SvfWeights
from zfleet.svf.cache import FactorCache
from zfleet.tasks.task import Grade, Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.fake_engine import FakeEngine
from zfleet.testing.reference_files import params_of

LR, CLIP = 2e-3, 1e-3  # as the reference implementation's cfgs/ have them
MAX_MULT = 1.7  # there 1: the rescale cancels any other
SPEC = LearnerSpec(estimator="reinforce", parametrisation="sigmoid", temperature=1, lr=LR, clip=CLIP)

Params = dict[str, Tensor]
Divergence = Callable[[Tensor, Tensor], Tensor]


class Dense:
    """The reference implementation's policy over a plain model, in float64: p is all that learns."""

    def __init__(self, base: Base, p: Params) -> None:
        self._model = base.model
        self.p = {key: value.double().requires_grad_() for key, value in p.items()}
        self._weights = {key: base.model.get_parameter(key).detach().clone() for key in p}
        self._svd = {key: torch.linalg.svd(weight, full_matrices=False) for key, weight in self._weights.items()}
        self.optimizer = torch.optim.Adam(list(self.p.values()), lr=LR)

    def mask(self, key: str) -> Tensor:
        return torch.sigmoid(self.p[key]) * MAX_MULT

    def rescale(self, key: str) -> Tensor:
        s = self._svd[key][1]
        rescale: Tensor = s.sum() / (s * self.mask(key)).sum()
        return rescale

    def z(self) -> Params:
        return {key: (self.mask(key) * self.rescale(key)).detach() for key in self.p}

    def gradients(self) -> Params:
        return {key: p.grad for key, p in self.p.items() if p.grad is not None}

    def backward(self, rollouts: list[Rollout], kl: float, divergence: Divergence) -> None:
        """Leave the gradient of the mean loss in p."""
        self._load(self._weights)
        references = [self._log_probs(rollout).detach() for rollout in rollouts]
        composed = {key: self._composed(key) for key in self.p}
        self._load(composed)
        for rollout, log_q in zip(rollouts, references, strict=True):
            log_p = self._log_probs(rollout)
            chosen = log_p.gather(-1, torch.tensor(rollout.completion).unsqueeze(-1))
            loss = -chosen.sum() * rollout.reward + kl * divergence(log_p, log_q)
            (loss / len(rollouts)).backward()
        for key, weight in composed.items():
            weight.backward(self._model.get_parameter(key).grad)
        self._model.zero_grad()

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(list(self.p.values()), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _composed(self, key: str) -> Tensor:
        u, s, vh = self._svd[key]
        composed: Tensor = u @ torch.diag(s * self.mask(key)) @ vh * self.rescale(key)
        return composed

    @torch.no_grad()
    def _load(self, weights: Params) -> None:
        for key, weight in weights.items():
            self._model.get_parameter(key).copy_(weight)

    def _log_probs(self, rollout: Rollout) -> Tensor:
        """Over the vocabulary at each token of the completion: [C, vocabulary]."""
        ids = torch.tensor([[*rollout.prompt, *rollout.completion]])
        logits = self._model(input_ids=ids).logits[0, len(rollout.prompt) - 1 : -1]
        return torch.log_softmax(logits, -1)


def base_to_policy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The reference implementation's: ``F.kl_div(log policy, log base, log_target=True, reduction="sum")``."""
    return functional.kl_div(log_p, log_q, log_target=True, reduction="sum")


def policy_to_base(log_p: Tensor, log_q: Tensor) -> Tensor:
    """With ``kl_over: policy``."""
    return functional.kl_div(log_q, log_p, log_target=True, reduction="sum")


@pytest.fixture(scope="module")
def start(tiny_base: Base) -> Params:
    """Further from the base than the reference implementation begins, so that every part of the formulas counts."""
    return {key: 0.1 + 0.5 * p.float() for key, p in params_of(tiny_base.model).items()}


@pytest.fixture
def dense(tiny_folder: Path, start: Params) -> Dense:
    return Dense(load_base(tiny_folder, dtype=torch.float64), start)


@pytest.fixture(scope="module")
def model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SvfModel:
    base = load_base(tiny_folder)
    matrices = target_matrices(tiny_folder, base.fingerprint, "mlp")
    return SvfModel(base, FactorCache(tmp_path_factory.mktemp("mlp")).get(matrices))


@pytest.fixture
def learner(model: SvfModel) -> Iterator[Learner]:
    """A learner without experts of its own: tests ask it for gradients."""
    with SyncEngine(FakeEngine()) as engine:
        yield Learner(SvfWeights(model), engine, [])


def _member(learner: Learner, start: Params, spec: LearnerSpec) -> ExpertInTraining:
    """One that stands at ``start``."""
    task = Task("none", (), (), PromptTemplate(), lambda completion, sample: Grade(0.0), 4)
    expert = ExpertInTraining(learner.weights, task, spec)
    with torch.no_grad():
        expert.p.copy_(_flat(learner, start))
    return expert


@pytest.fixture(scope="module")
def rollouts() -> list[Rollout]:
    rng = random.Random(3)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(5, 60) for _ in range(rng.randint(least, most)))

    return [
        Rollout(Sample(str(group), ""), group, tokens(2, 8), tokens(1, 6), "", Grade(rng.choice([-1.0, 1.0])))
        for group in range(9)
    ]


@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_steps_are_those_of_the_reference(
    dense: Dense, learner: Learner, start: Params, rollouts: list[Rollout], kl: float
) -> None:
    expert = _member(learner, start, SPEC.model_copy(update={"kl": kl, "kl_over": "base"}))
    before = expert.p.detach().clone()
    for _ in range(3):
        dense.backward(rollouts, kl, base_to_policy)
        (gradient,) = learner.mean_gradients(learner.compare([expert], [rollouts])).each
        assert _distance(gradient, _flat(learner, dense.gradients())) < 1e-5
        assert float(gradient.norm()) > 10 * CLIP, "nothing was clipped"
        dense.step()
        expert.apply(gradient)
        assert torch.allclose(expert.p.detach().double(), _flat(learner, dense.p).detach(), rtol=0, atol=1e-6)
        z = SvfWeights(learner.weights.model).z(SPEC, expert.p).flat(learner.weights.model.layout)
        assert torch.allclose(z.double(), _flat(learner, dense.z()), rtol=0, atol=3e-6)
    assert float((expert.p.detach() - before).abs().median()) > LR, "nothing moved"


def test_the_divergence_has_two_directions(
    dense: Dense, learner: Learner, start: Params, rollouts: list[Rollout]
) -> None:
    expert = _member(learner, start, SPEC.model_copy(update={"kl": 0.5, "kl_over": "policy"}))
    (gradient,) = learner.mean_gradients(learner.compare([expert], [rollouts])).each
    dense.backward(rollouts, 0.5, policy_to_base)
    assert _distance(gradient, _flat(learner, dense.gradients())) < 1e-5
    dense.optimizer.zero_grad()
    dense.backward(rollouts, 0.5, base_to_policy)
    assert _distance(gradient, _flat(learner, dense.gradients())) > 1e-2


def _flat(learner: Learner, by_key: Params) -> Tensor:
    """[R], in the order of the learner's p."""
    return learner.weights.model.layout.flatten({_name(key): value for key, value in by_key.items()})


def _distance(one: Tensor, other: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((one - other).norm() / other.norm())


def _name(key: str) -> str:
    return key.removesuffix(".weight")
