"""One expert's gradient on recorded samples: the learner's way and the reference implementation's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from learning.opened import open_base
from learning.reference import ReferenceWay
from learning.turns import take_turns
from zfleet.config.learner import LearnerSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.models.svf_model import SvfModel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.rollout import Rollout
from zfleet.rl.weights import SvfWeights
from zfleet.tasks.task import Grade, Sample, Task
from zfleet.tasks.template import PromptTemplate
from zfleet.testing.fake_engine import FakeEngine

PROMPT_TOKENS = 16
TOLERANCE = 1e-4
"""Largest difference of both gradients, over the norm: what float32 leaves of one formula computed in two orders."""

Way = Literal["ours", "reference"]
WAYS: tuple[Way, ...] = ("ours", "reference")


@dataclass(frozen=True)
class Size:
    """Samples of one step: ``samples`` answers of ``tokens`` tokens, all to different prompts."""

    samples: int
    tokens: int


SIZES = {64: Size(4, 16), 512: Size(16, 32), 4096: Size(64, 64)}
"""By the tokens that are learned from."""


def recorded(size: Size) -> list[Rollout]:
    """Samples of random tokens with random rewards of +1 and -1."""
    chance = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(4, 60) for _ in range(count))

    return [
        Rollout(
            Sample(str(number), ""),
            number,
            tokens(PROMPT_TOKENS),
            tokens(size.tokens),
            "",
            Grade(chance.choice([-1.0, 1.0])),
        )
        for number in range(size.samples)
    ]


@contextmanager
def gradient_of(way: Way, base: str, micro_batch_tokens: int) -> Iterator[Callable[[Sequence[Rollout]], Tensor]]:
    """A way, ready to compute gradients [R] in p, over a copy of the base of its own; p is not that of the base."""
    spec = LearnerSpec(
        estimator="reinforce", parametrisation="sigmoid", temperature=1, micro_batch_tokens=micro_batch_tokens
    )
    opened = open_base(base)
    torch.manual_seed(0)
    spread = 0.3 * torch.randn(opened.factors.layout.size)
    if way == "reference":
        reference, p = ReferenceWay(opened, spec), spread.requires_grad_()
        yield lambda rollouts: reference.gradient(p, rollouts)
        return
    weights = SvfWeights(SvfModel(opened.base, opened.factors))
    expert = ExpertInTraining(weights, Task("none", (), (), PromptTemplate(), lambda text, sample: Grade(0.0), 1), spec)
    with torch.no_grad():
        expert.p.copy_(spread)
    with SyncEngine(FakeEngine()) as engine:
        learner = Learner(weights, engine, [expert])
        yield lambda rollouts: learner.mean_gradients(learner.compare([expert], [rollouts])).each[0]


def measure_steps(
    base: str, micro_batch_tokens: int, rounds: dict[int, int], tell: Callable[[], None]
) -> dict[str, Any]:
    """How many times as long the reference's way takes, by tokens a step, as of ``Pair.ratio``.

    Args:
        micro_batch_tokens: Of both ways: what goes through the model at once, padding included.

    Raises:
        RuntimeError: The two ways have different gradients.
    """
    found = {}
    with (
        gradient_of("ours", base, micro_batch_tokens) as ours,
        gradient_of("reference", base, micro_batch_tokens) as reference,
    ):
        for tokens, size in SIZES.items():
            rollouts = recorded(size)
            apart = _difference(ours(rollouts), reference(rollouts))
            if not apart < TOLERANCE:
                raise RuntimeError(f"at {tokens} tokens the gradients differ by {apart:.1e} of their norm")
            pair = take_turns(lambda: ours(rollouts), lambda: reference(rollouts), rounds[tokens], tell)  # noqa: B023
            seconds = pair.seconds()
            found[str(tokens)] = {
                "ratio": "seconds of the reference's way / of ours",
                **pair.ratio(),
                "seconds": {"ours": seconds["ours"], "reference": seconds["other"]},
                "difference": apart,
                "samples": size.samples,
                "answer_tokens": size.tokens,
                "prompt_tokens": PROMPT_TOKENS,
            }
    return found


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())
