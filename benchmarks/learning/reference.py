"""The reference implementation's way to a gradient, in the fastest form that we know of: dense W' and dense dW'."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from learning.opened import Opened
from zfleet.config.learner import LearnerSpec
from zfleet.models.completions import Row, lay_out, micro_batches
from zfleet.models.svf_model import SvfModel
from zfleet.models.teacher_forcing import completion_logprobs
from zfleet.rl.loss import policy_loss
from zfleet.rl.parametrisation import PARAMETRISATIONS
from zfleet.rl.rollout import Rollout
from zfleet.svf.factors import Factors, MatrixFactors


class ReferenceWay:
    """Composes every W' from p, runs the plain model on them, and goes back through dense dW' into p.

    Autograd does all of it, in float32, in micro-batches of ``spec.micro_batch_limit`` as the learner has them. W' is
    composed once for all of them; their dW' are summed, and the last one takes the sum through the composition, where
    each dW' is freed as soon as its part of dp is known. A single micro-batch is one graph, and keeps no sum. U, s and
    Vh are constants.
    Composing is one product a matrix, and z scales the factor that has fewer numbers, so that its gradient is a sum
    over those: dz = rowsum((U^T dW') * s Vh) where W is tall, and the like through dW' V where it is wide.
    """

    def __init__(self, opened: Opened, spec: LearnerSpec) -> None:
        base, factors = opened.base, opened.factors
        base.model.requires_grad_(False)
        self._micro_batch_tokens = spec.micro_batch_limit
        self._layout = factors.layout
        self._model = SvfModel(base, Factors({}, base.fingerprint, "none"))
        self._z = PARAMETRISATIONS[spec.parametrisation](factors, base.model.device).z
        self._linears = {name: _Composed.in_place_of(base.model, name, m) for name, m in factors.matrices.items()}

    def gradient(self, p: Tensor, rollouts: Sequence[Rollout]) -> Tensor:
        """Of the mean loss over samples, each one's reward its advantage: [R]."""
        z = self._layout.split(self._z(p))
        for name, linear in self._linears.items():
            linear.compose(z[name])
        *before, last = micro_batches(
            [len(one.prompt) + len(one.completion) for one in rollouts], self._micro_batch_tokens
        )
        if before:
            for linear in self._linears.values():
                linear.cut_off()
            for chosen in before:
                self._loss([rollouts[index] for index in chosen], len(rollouts)).backward()
            for linear in self._linears.values():
                linear.join()
        (gradient,) = torch.autograd.grad(self._loss([rollouts[index] for index in last], len(rollouts)), p)
        for linear in self._linears.values():
            linear.restore()
        return gradient

    def _loss(self, rollouts: Sequence[Rollout], of: int) -> Tensor:
        """The part of one pass in the mean loss over ``of`` samples."""
        batch = lay_out([Row(rollout.prompt, (rollout.completion,)) for rollout in rollouts], self._model)
        rewards = torch.tensor([rollout.reward for rollout in rollouts])
        logprobs = completion_logprobs(self._model, batch, None)
        return policy_loss(logprobs, rewards.repeat_interleave(torch.tensor(batch.lengths))) / of


class _Composed(nn.Module):
    """A linear layer whose weight is composed anew for each step."""

    def __init__(self, linear: nn.Linear, factors: MatrixFactors) -> None:
        super().__init__()
        self._tall = linear.out_features >= linear.in_features
        self._u = factors.u if self._tall else factors.u * factors.s
        self._vh = factors.s.unsqueeze(1) * factors.vh if self._tall else factors.vh
        self._bias = linear.bias
        # Not parameters: a composed weight is part of the step's graph.
        self._plain = linear.weight.detach()
        self._weight = self._composed = self._plain

    @classmethod
    def in_place_of(cls, model: nn.Module, name: str, factors: MatrixFactors) -> _Composed:
        """Put one where a linear was."""
        parent, _, leaf = name.rpartition(".")
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        composed = cls(linear, factors)
        setattr(model.get_submodule(parent), leaf, composed)
        return composed

    def compose(self, z: Tensor) -> None:
        """W' = U diag(s z) Vh, differentiable in z [r]."""
        self._composed = self._u @ (z.unsqueeze(1) * self._vh) if self._tall else (self._u * z) @ self._vh
        self._weight = self._composed

    def cut_off(self) -> None:
        """Until ``join`` a pass goes back no further than to W', where dW' is summed."""
        self._weight = self._composed.detach().requires_grad_()

    def join(self) -> None:
        """The next pass goes back into z, and takes what was summed along."""
        summed, self._weight = self._weight.grad, self._composed
        assert summed is not None
        self._composed.register_hook(summed.add_)

    def restore(self) -> None:
        """Be the base again, and keep nothing of the step."""
        self._weight = self._composed = self._plain

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self._weight, self._bias)
