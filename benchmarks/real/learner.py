"""The learner at a real size: prompts shared by their samples, and values of tokens without logits in full."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, Literal

import torch
from torch import Tensor, nn

from learning.memory import peak_of
from learning.opened import open_base
from learning.turns import take_turns
from real.full_logits import full_gradient, full_values
from real.settings import Settings
from zfleet.config.learner import LearnerSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.models.output_head import OutputHead
from zfleet.models.svf_model import SvfModel
from zfleet.models.token_values import Divergence, token_values
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import SvfWeights
from zfleet.svf.linear import RowBinding
from zfleet.tasks.task import Grade, Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.fake_engine import FakeEngine

KL = 0.1
TOLERANCE = 1e-4
"""Largest difference of two gradients, over the norm: what float32 leaves of one formula computed in two orders."""

Way = Literal["ours", "other"]


@dataclass(frozen=True)
class Size:
    """Samples of one step.

    Attributes:
        prompts, samples: Of each step, of each prompt.
        prompt, answer: Tokens of each.
    """

    prompts: int
    samples: int
    prompt: int
    answer: int


GROUP = Size(prompts=1, samples=8, prompt=400, answer=8)
CHUNKED = Size(prompts=8, samples=1, prompt=32, answer=96)
HEAD_TOKENS = 1024


def learner_group(settings: Settings) -> dict[str, Any]:
    """Seconds of a gradient with a row for each sample, over those with one row for the group.

    Raises:
        RuntimeError: The two ways have different gradients.
    """
    settings.tell("learner_group")
    with _opened(settings) as learning:
        rollouts = _recorded(GROUP, learning.vocabulary)
        model, cost = learning.model, learning.model.cost

        def gradient(window: int | None) -> Tensor:
            # No prompt and completion fit a window of 0: their rows stay apart.
            vars(model)["cost"] = replace(cost, window=window)
            return learning.gradient(rollouts, 0.0)

        apart = _difference(gradient(None), gradient(0))
        pair = take_turns(lambda: gradient(None), lambda: gradient(0), settings.rounds, lambda: None)
    seconds = pair.seconds()
    return {
        "learner_group": {
            "ratio": "seconds of rows apart / of one row for the group",
            **pair.ratio(),
            "seconds": {"group": seconds["ours"], "apart": seconds["other"]},
            "difference": apart,
            "size": vars(GROUP),
        }
    }


def chunked_logits(settings: Settings) -> dict[str, Any]:
    """Seconds and memory of a gradient in chunks of logits, over one with all logits; with the divergence.

    Raises:
        RuntimeError: The two ways have different gradients.
    """
    settings.tell("chunked_logits: seconds")
    with _opened(settings) as learning:
        rollouts = _recorded(CHUNKED, learning.vocabulary)
        ways = _ways(learning, rollouts)
        apart = _difference(ways["ours"](), ways["other"]())
        pair = take_turns(ways["other"], ways["ours"], settings.rounds, lambda: None)
    seconds = pair.seconds()
    settings.tell("chunked_logits: memory")
    head = {way: _in_a_process(_head_peak, settings, way) for way in ("ours", "other")}
    step = {way: _in_a_process(_step_peak, settings, way) for way in ("ours", "other")}
    return {
        "chunked_logits_peak": {
            "ratio": f"memory of the values of {HEAD_TOKENS} tokens and their gradient, in chunks / with all logits",
            "median": head["ours"] / head["other"],
            "mib": {"chunked": head["ours"], "full": head["other"]},
        },
        "chunked_step_peak": {
            "ratio": "memory that a step adds, in chunks / with all logits",
            "median": step["ours"] / step["other"],
            "mib": {"chunked": step["ours"], "full": step["other"]},
            "size": vars(CHUNKED),
        },
        "chunked_step_seconds": {
            "ratio": "seconds of a step in chunks / with all logits",
            **pair.ratio(),
            "seconds": {"chunked": seconds["other"], "full": seconds["ours"]},
            "difference": apart,
            "size": vars(CHUNKED),
        },
    }


@dataclass(frozen=True)
class _Learning:
    """A learner of one expert, away from the base."""

    model: SvfModel
    learner: Learner
    expert: ExpertInTraining

    @property
    def vocabulary(self) -> int:
        return int(self.model.base.model.config.vocab_size)

    def gradient(self, rollouts: list[Rollout], kl: float) -> Tensor:
        """Of the learner's mean loss: [P]."""
        self.expert.spec = self.expert.spec.model_copy(update={"kl": kl})
        (gradient,) = self.learner.mean_gradients(self.learner.compare([self.expert], [rollouts])).each
        return gradient


@contextmanager
def _opened(settings: Settings) -> Iterator[_Learning]:
    opened = open_base(settings.base)
    weights = SvfWeights(SvfModel(opened.base, opened.factors))
    spec = LearnerSpec(parametrisation="direct")
    expert = ExpertInTraining(weights, Task("none", (), (), PromptTemplate(), lambda text, sample: Grade(0.0), 1), spec)
    with torch.no_grad():
        expert.p.add_(0.1 * torch.randn(expert.p.shape, generator=torch.Generator().manual_seed(0)))
    with SyncEngine(FakeEngine()) as engine:
        yield _Learning(weights.model, Learner(weights, engine, [expert]), expert)


def _recorded(size: Size, vocabulary: int) -> list[Rollout]:
    """Samples of random tokens with random rewards of +1 and -1."""
    chance = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(4, vocabulary) for _ in range(count))

    return [
        Rollout(Sample(str(group), ""), group, prompt, tokens(size.answer), "", Grade(chance.choice([-1.0, 1.0])))
        for group in range(size.prompts)
        for prompt in [tokens(size.prompt)]
        for _ in range(size.samples)
    ]


def _ways(learning: _Learning, rollouts: list[Rollout]) -> dict[Way, Callable[[], Tensor]]:
    return {
        "ours": lambda: learning.gradient(rollouts, KL),
        "other": lambda: full_gradient(learning.model, learning.expert.p, rollouts, KL),
    }


def _in_a_process(measure: Callable[[Settings, Way], float], settings: Settings, way: Way) -> float:
    """MiB, in a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, replace(settings, tell=print), way).result()


def _step_peak(settings: Settings, way: Way) -> float:
    torch.set_num_threads(settings.threads)
    with _opened(settings) as learning:
        # Code that the first step loads is there.
        _ways(learning, _recorded(replace(CHUNKED, prompts=1, answer=2), learning.vocabulary))[way]()
        return peak_of(_ways(learning, _recorded(CHUNKED, learning.vocabulary))[way])["step_mib"]


def _head_peak(settings: Settings, way: Way) -> float:
    torch.set_num_threads(settings.threads)
    linear = open_base(settings.base).base.model.get_output_embeddings()
    assert isinstance(linear, nn.Linear)
    linear.requires_grad_(False)
    head = OutputHead(linear, RowBinding())
    chance = torch.Generator().manual_seed(0)

    def work(tokens: int) -> None:
        hidden, base = torch.randn(2, tokens, linear.in_features, generator=chance).unbind()
        hidden.requires_grad_()
        targets = torch.randint(linear.out_features, (tokens,), generator=chance)
        if way == "ours":
            owners = torch.zeros_like(targets)
            logprobs, far = token_values(head, hidden, targets, owners, 1.0, Divergence(base, "policy", learned=True))
        else:
            with torch.no_grad():
                others = linear(base)
            logprobs, far = full_values(linear(hidden), others, targets)
        (KL * far - logprobs).sum().backward()

    work(1)
    return peak_of(lambda: work(HEAD_TOKENS))["step_mib"]


def _difference(one: Tensor, other: Tensor) -> float:
    apart = float((one - other).norm() / other.norm())
    if not apart < TOLERANCE:
        raise RuntimeError(f"the gradients differ by {apart:.1e} of their norm")
    return apart
