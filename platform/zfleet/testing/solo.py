"""A learner of one expert on a small task that a random base solves now and then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zfleet.config.learner import LearnerSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.models.svf_model import SvfModel
from zfleet.rewards.python import PythonReward
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.report import StepReport
from zfleet.rl.weights import SvfWeights
from zfleet.svf.zvector import ZVector
from zfleet.tasks.task import Grade, Reward, Sample, Task, verdict
from zfleet.tasks.template import PromptTemplate

WORDS = ("flip bca", "reverse hello", "sort ab", "add 3 4", "turn xyz", "order qwe", "flip aa", "sort zyx")
SPEC = LearnerSpec(steps=20, prompts_per_step=8, samples_per_prompt=4, estimator="rloo", lr=0.1, seed=5)


@dataclass(frozen=True)
class HasVowel:
    """Rewards answers that have a vowel."""

    def __call__(self, completion: str, sample: Sample) -> Grade:
        return verdict(bool(set(completion) & set("aei")), None, "")


@dataclass(frozen=True)
class Solo:
    """A learner of one expert."""

    learner: Learner
    expert: ExpertInTraining
    weights: SvfWeights

    @property
    def z(self) -> ZVector:
        """The expert's current z."""
        return self.weights.z(self.expert.spec, self.expert.p)

    def step(self) -> StepReport:
        """Take one step."""
        (report,) = self.learner.step()
        return report


def solo(model: SvfModel, engine: SyncEngine, task: Task, spec: LearnerSpec, skip_failed_rewards: bool = False) -> Solo:
    """Make a learner that starts at the base."""
    weights = SvfWeights(model)
    expert = ExpertInTraining(weights, task, spec, "vowels", skip_failed_rewards)
    return Solo(Learner(weights, engine, [expert]), expert, weights)


def vowels_task(reward: Reward | None = None) -> Task:
    """Make a task of the words, as samples ``s0`` to ``s7``."""
    samples = tuple(Sample(f"s{place}", word) for place, word in enumerate(WORDS))
    return Task("vowels", samples, samples, PromptTemplate(), reward or HasVowel(), max_tokens=4)


def python_reward(function: Callable[[str, Sample], object]) -> PythonReward:
    """Wrap a function as a user's reward."""
    return PythonReward("mine:function", function)
