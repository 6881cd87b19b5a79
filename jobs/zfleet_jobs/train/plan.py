"""What a job comes down to for each of its experts, before anything is started."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from zfleet.config.specs import ExpertSpec, TrainSpec
from zfleet.models.bundle import BaseBundle
from zfleet.rewards.grading import check_reward, reward_identity
from zfleet.rl.references import check_references
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import FitReport, data_digest, fit_prompts
from zfleet_jobs.train.result import TrainedExpert
from zfleet_registry import ExpertRegistry, ExpertVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """One expert to train.

    Attributes:
        expert: Its part of the spec.
        fit: Its task, without prompts that do not fit.
        data: Digest of that task's samples and images.
        depends: Everything its z depends on, by the spec's keys.
    """

    expert: ExpertSpec
    fit: FitReport
    data: str
    depends: dict[str, Any]

    @property
    def spec(self) -> str:
        """``depends`` as JSON: what the registry keeps."""
        return json.dumps(self.depends, sort_keys=True)

    @property
    def digest(self) -> str:
        """Identity of ``depends``: the same digest goes on with the same run."""
        return hashlib.sha256(self.spec.encode()).hexdigest()


def make_plans(spec: TrainSpec, bundle: BaseBundle, here: bool) -> list[Plan]:
    """Every expert's plan.

    Args:
        spec: The job.
        bundle: Its base.
        here: Whether this machine also grades.

    Raises:
        ZfleetError: A task or a reward that cannot be used.
    """
    tokenizer, reader = bundle.tokenizer(), bundle.image_reader()
    longest = min(spec.engine.max_length or bundle.context, bundle.context)
    plans = []
    for expert in spec.experts:
        task = build_task(expert.task)
        if here:
            check_reward(task.reward)
        fit = fit_prompts(task, tokenizer, longest, reader)
        if fit.left_out:
            log.warning("%s", fit)
        if spec.learner_of(expert).objective == "supervised":
            check_references(fit.task, tokenizer, bundle.context, reader)
        plans.append(_plan(spec, expert, fit, bundle.factors_digest))
    return plans


def _plan(spec: TrainSpec, expert: ExpertSpec, fit: FitReport, factors: str) -> Plan:
    data = data_digest(fit.task)
    depends = {
        "device": spec.base.device,
        "dtype": spec.base.dtype,
        "factors": factors,
        "task": expert.task.model_dump(mode="json"),
        "reward": reward_identity(fit.task.reward),
        "data": data,
        "learner": spec.learner_of(expert).model_dump(),
        "cohort": spec.cohort,
        "num_workers": spec.num_workers,
        "split": spec.split,
        "engine": spec.engine.model_dump(),
        "eval": [spec.eval_samples, spec.eval_temperature],
    }
    return Plan(expert, fit, data, depends)


def find_version(registry: ExpertRegistry, plan: Plan, slug: str) -> ExpertVersion | None:
    """The newest version trained from exactly this plan, if there is one."""
    versions = [v for v in registry.list(slug) if v.name == plan.expert.name and v.provenance.spec == plan.spec]
    return max(versions, key=lambda found: found.version, default=None)


def experiment_of(slug: str) -> str:
    """The registry's experiment that holds the trainings of a base."""
    return f"zfleet/{slug}"


def registered(registry: ExpertRegistry, plan: Plan, slug: str) -> TrainedExpert | None:
    """The expert of this plan that the registry holds, if it holds one.

    Raises:
        CorruptArtifact: It does, and its file is damaged.
    """
    version = find_version(registry, plan, slug)
    if version is None:
        return None
    registry.load(version)
    return result_of(plan, version, 0.0)


def result_of(plan: Plan, version: ExpertVersion, seconds: float) -> TrainedExpert:
    """What people get to know of a version."""
    metrics = version.provenance.metrics
    return TrainedExpert(
        name=plan.expert.name,
        reference=version.reference,
        z_digest=version.z_digest,
        parameters=int(metrics["parameters"]),
        n=int(metrics["n_after"]),
        reward_before=metrics["reward_before"],
        reward_after=metrics["reward_after"],
        accuracy_before=metrics["accuracy_before"],
        accuracy_after=metrics["accuracy_after"],
        left_out=len(plan.fit.left_out),
        seconds=seconds,
        run_id=version.run_id,
    )
