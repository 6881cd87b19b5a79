"""Makes one plan for each expert of a job, before anything is started, and says what a plan led to."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from zfleet.config.specs import ExpertSpec, TrainSpec
from zfleet.models.bundle import BaseBundle
from zfleet.models.licence import licence_of
from zfleet.rewards.grading import check_reward, reward_identity
from zfleet.rl.reference_answers import check_references
from zfleet.tasks.build import build_task
from zfleet.tasks.fit import FitReport, data_digest, fit_prompts
from zfleet_jobs.run_folder.plan import Plan, Start
from zfleet_registry import ExpertRegistry, ExpertVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedExpert:
    """The result of a plan: one expert, trained and registered.

    Attributes:
        name: The expert's name.
        reference: Reference to its version in the registry, such as ``reverse/1``.
        z_digest: Identity of its z.
        parameters: How many numbers were trained.
        n: How many held-out prompts were graded.
        reward_before: Mean held-out reward before the first step: of the base, or of the z that the expert began at.
        reward_after: Mean held-out reward of the expert.
        accuracy_before: Fraction of held-out prompts answered right before the first step.
        accuracy_after: The expert's.
        left_out: How many prompts did not fit the context.
        seconds: From the start of its run to its registration; 0 if it was registered already.
        run_id: Of the registry's run, which has the curves.
    """

    name: str
    reference: str
    z_digest: str
    parameters: int
    n: int
    reward_before: float
    reward_after: float
    accuracy_before: float
    accuracy_after: float
    left_out: int
    seconds: float
    run_id: str


def make_plans(
    spec: TrainSpec, bundle: BaseBundle, here: bool, starts: Mapping[str, Start] | None = None
) -> list[Plan]:
    """Plan every expert.

    Args:
        spec: The job.
        bundle: Its base.
        here: Whether this machine grades, so that the rewards must run on it.
        starts: {expert: where it begins}; the others begin at the base.

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
        plans.append(_plan(spec, expert, fit, bundle, (starts or {}).get(expert.name)))
    return plans


def _plan(spec: TrainSpec, expert: ExpertSpec, fit: FitReport, bundle: BaseBundle, start: Start | None) -> Plan:
    data = data_digest(fit.task)
    depends = {
        "device": spec.base.device,
        "dtype": spec.base.dtype,
        "factors": bundle.factors_digest,
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
    if start is not None:
        # Not as None if there is none: the identity of runs and versions that begin at the base would change.
        depends["start"] = {"reference": start.reference, "z_digest": start.z.digest}
    return Plan(expert, fit, data, depends, start, licence_of(bundle.model))


def find_version(registry: ExpertRegistry, plan: Plan, slug: str) -> ExpertVersion | None:
    """Find the newest version that was trained from exactly this plan, if there is one."""
    versions = [v for v in registry.list(slug) if v.name == plan.expert.name and v.provenance.spec == plan.spec]
    return max(versions, key=lambda version: version.version, default=None)


def experiment_of(slug: str) -> str:
    """Name the registry's experiment that holds the trainings of a base."""
    return f"zfleet/{slug}"


def registered(registry: ExpertRegistry, plan: Plan, slug: str) -> TrainedExpert | None:
    """Return the expert of this plan that the registry holds, if it holds one.

    Raises:
        CorruptArtifact: Its file is damaged.
    """
    version = find_version(registry, plan, slug)
    if version is None:
        return None
    registry.load(version)
    return result_of(plan, version, 0.0)


def result_of(plan: Plan, version: ExpertVersion, seconds: float) -> TrainedExpert:
    """Make a result of a registered version."""
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
