"""Experts of the lab base, trained in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zfleet.config.learner import LearnerSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.learner import Learner
from zfleet.rl.weights import SvfWeights
from zfleet.svf.zvector import ZVector
from zfleet.tasks.lab import lab_task

LEARNER = LearnerSpec(steps=100)


def train_lab_experts(
    weights: SvfWeights, engine: SyncEngine, names: Sequence[str], tell: Callable[[str], None]
) -> list[ZVector]:
    """Train an expert for each lab task, side by side; some ten seconds each on one core.

    Args:
        weights: Of the lab base.
        engine: On the same model.
        names: Of the tasks.
        tell: Told each step.
    """
    members = [ExpertInTraining(weights, lab_task(name), LEARNER, name) for name in names]
    learner = Learner(weights, engine, members)
    for step in range(LEARNER.steps):
        tell(f"train {', '.join(names)}: step {step + 1} of {LEARNER.steps}")
        learner.step()
    learner.close()
    return [weights.z(member.spec, member.selected_p) for member in members]
