"""Four experts that learn side by side, beside the same four one after another: whole steps, rollouts included."""

from __future__ import annotations

import random
import statistics
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from learning.opened import Opened
from learning.turns import take_turns
from zfleet.config.learner import LearnerSpec
from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.models.svf_model import SvfModel
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.report import StepReport
from zfleet.rl.weights import SvfWeights
from zfleet.tasks.task import Grade, Sample, Task
from zfleet.tasks.template import PromptTemplate

EXPERTS = 4
PROMPTS, PROMPT_TOKENS, ANSWER_TOKENS = 4, 16, 16
"""Of one expert's step: 64 tokens are sampled."""

_STEPS = 1_000_000
_TASK_PROMPTS = 64
_WORDS = range(4, 2048)


class CoinByText:
    """+1 or -1, the same for the same text: it costs nothing."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        return Grade(1.0 if zlib.crc32(completion.encode()) % 2 else -1.0)


def measure_cohort(opened: Opened, kl: float, rounds: int, tell: Callable[[], None]) -> dict[str, Any]:
    """Samples a second of four experts in one learner over those of four learners one after another.

    Both sample on one embedded engine, which shares the learners' model, and step by step learn the same.

    Returns:
        The ratio as of ``Pair.ratio``; medians of ``seconds``, ``rollout_seconds``, ``learn_seconds`` and ``samples``
        and ``tokens`` of one step of all four, for both ways.
    """
    weights = SvfWeights(SvfModel(opened.base, opened.factors))
    with _engine(weights.model) as engine:
        together = Learner(weights, engine, _members(weights, kl))
        alone = [Learner(weights, engine, [expert]) for expert in _members(weights, kl)]
        steps: dict[str, list[list[StepReport]]] = {"cohort": [], "solo": []}

        def cohort() -> None:
            steps["cohort"].append(together.step())

        def solo() -> None:
            steps["solo"].append([report for learner in alone for report in learner.step()])

        cohort()
        solo()
        pair = take_turns(cohort, solo, rounds, tell)
    seconds = pair.seconds()
    return {
        "ratio": "samples a second of the cohort / of four learners one after another",
        **pair.ratio(),
        "cohort": {"seconds": seconds["ours"], **_parts(steps["cohort"], batches=1)},
        "solo": {"seconds": seconds["other"], **_parts(steps["solo"], batches=EXPERTS)},
    }


@contextmanager
def _engine(model: SvfModel) -> Iterator[SyncEngine]:
    with SyncEngine(TorchEngine(model, EngineSpec(slots=64))) as engine:
        yield engine


def _members(weights: SvfWeights, kl: float) -> list[ExpertInTraining]:
    def expert(number: int) -> ExpertInTraining:
        spec = LearnerSpec(steps=_STEPS, prompts_per_step=PROMPTS, kl=kl, lr=1e-3, seed=number)
        return ExpertInTraining(weights, _task(number), spec, f"expert-{number}")

    return [expert(number) for number in range(EXPERTS)]


def _task(number: int) -> Task:
    chance = random.Random(number)
    prompts = [" ".join(f"w{word}" for word in chance.choices(_WORDS, k=PROMPT_TOKENS)) for _ in range(_TASK_PROMPTS)]
    samples = tuple(Sample(str(place), prompt) for place, prompt in enumerate(prompts))
    return Task(f"task-{number}", samples, samples, PromptTemplate("{prompt}"), CoinByText(), ANSWER_TOKENS)


def _parts(steps: Sequence[Sequence[StepReport]], batches: int) -> dict[str, float]:
    """Medians over steps; a cohort's experts all report the seconds of their one batch."""

    def median(of: Callable[[StepReport], float], reports: int) -> float:
        return statistics.median(sum(of(report) for report in step[:reports]) for step in steps)

    return {
        "rollout_seconds": median(lambda report: report.rollout_seconds, batches),
        "learn_seconds": median(lambda report: report.learn_seconds, batches),
        "samples": median(lambda report: report.samples, EXPERTS),
        "tokens": median(lambda report: report.tokens, EXPERTS),
    }
