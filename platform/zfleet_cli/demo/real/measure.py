"""Make the measurements of the demo on a pretrained model, in the form of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from zfleet.config.generated import EXAM, KIND, GeneratedName
from zfleet.evaluate.statistics.proportions import wilson
from zfleet.evaluate.statistics.single import paired
from zfleet.tasks.generated.load import generated_task
from zfleet.tasks.task import Task
from zfleet_cli.demo.real.bench import Bench
from zfleet_cli.demo.real.measured import Rewards
from zfleet_cli.demo.real.plan import EXAMS, LORA, SVF, Plan
from zfleet_jobs.compare.outcome import Outcome
from zfleet_jobs.search.mixtures import FoundMixture

Section = dict[str, Any]


def measure_trainings(plan: Plan, outcomes: Sequence[Outcome]) -> Section:
    """Arrange the trainings of each task: base, SVF and LoRA, their paired differences and their costs."""
    found = {(outcome.task, outcome.method): outcome for outcome in outcomes}
    return {task: _training(found[task, SVF], found[task, LORA]) for task in plan.tasks}


def measure_classifier(outcomes: Sequence[Outcome]) -> Section:
    """Arrange the training of the classifier: how many held-out prompts' kinds are named right."""
    (outcome,) = (outcome for outcome in outcomes if outcome.task == KIND)
    return {
        "n": outcome.n,
        "base": _accuracy(_right(outcome.rewards_before)),
        "classifier": _accuracy(_right(outcome.rewards)),
        "gain": _difference(outcome.rewards, outcome.rewards_before),
        **_costs(outcome),
    }


def measure_mixing(bench: Bench, plan: Plan, found: Mapping[str, Sequence[FoundMixture]]) -> Section:
    """Measure each exam: the base, every single expert, and the mixture of each draw of shots."""
    section: Section = {}
    for exam in EXAMS:
        task = exam_task(plan, exam)
        base = bench.rewards(task)
        singles = {name: bench.rewards(task, name) for name in plan.experts}
        best = max(singles, key=lambda name: sum(_right(singles[name])))
        section[exam] = {
            "n": len(task.test),
            "base": _accuracy(_right(base)),
            "singles": {name: _accuracy(_right(rewards)) for name, rewards in singles.items()},
            "best_single": best,
            "draws": [
                {"shots_seed": seed, **_draw(bench, task, mixture, base, singles, best)}
                for seed, mixture in zip(plan.draws, found[exam], strict=True)
            ],
        }
    return section


def measure_dispatch(bench: Bench, plan: Plan) -> Section:
    """Measure who answers the exam best: the base, whom base or classifier choose, or an oracle that knows the kind."""
    task = exam_task(plan, EXAM)
    base = bench.rewards(task)
    families = [sample.fields["family"] for sample in task.test]
    own = [name if name in plan.experts else None for name in families]
    section: Section = {"n": len(task.test), "base": {"accuracy": _accuracy(_right(base))}}
    for method in ("prompt", "classifier"):
        chosen = [next(iter(decision.mixture), None) for decision in bench.dispatched(task.test, method)]
        section[method] = _routed(bench, task, base, chosen)
        section[method]["named_right"] = sum(a == b for a, b in zip(chosen, own, strict=True)) / len(own)
    section["oracle"] = _routed(bench, task, base, own)
    return section


def measurements_of(plan: Plan) -> int:
    """Count what ``measure_dispatch`` and ``measure_mixing`` ask the bench to grade."""
    by_dispatch = 4  # the base, whom the base and the classifier choose, an oracle
    return by_dispatch + len(EXAMS) * (1 + len(plan.experts) + len(plan.draws))


def exam_task(plan: Plan, name: GeneratedName) -> Task:
    """Make an exam, with as many test prompts as the plan says."""
    task = generated_task(name)
    return replace(task, test=task.test[: plan.exam])


def _training(svf: Outcome, lora: Outcome) -> Section:
    return {
        "n": svf.n,
        "base": _accuracy(_right(svf.rewards_before)),
        SVF: _trained(svf),
        LORA: _trained(lora),
        "svf_minus_lora": _difference(svf.rewards, lora.rewards),
    }


def _trained(outcome: Outcome) -> Section:
    return {
        "accuracy": _accuracy(_right(outcome.rewards)),
        "gain": _difference(outcome.rewards, outcome.rewards_before),
        "curve": [list(point) for point in outcome.curve],
        **_costs(outcome),
    }


def _costs(outcome: Outcome) -> Section:
    return {
        "parameters": outcome.parameters,
        "samples": outcome.samples,
        "seconds": outcome.seconds,
        "held_mib": outcome.held_mib,
        "peak_mib": outcome.peak_mib,
    }


def _draw(
    bench: Bench, task: Task, mixture: FoundMixture, base: Rewards, singles: Mapping[str, Rewards], best: str
) -> Section:
    rewards = bench.mixture_rewards(task, mixture.z)
    picked = max(mixture.singles, key=lambda name: (mixture.singles[name].value, mixture.singles[name].tie))
    return {
        "mixture": _accuracy(_right(rewards)),
        "over_base": _difference(rewards, base),
        "over_best_single": _difference(rewards, singles[best]),
        "pick_one": picked,
        "pick_one_accuracy": _accuracy(_right(singles[picked])),
        "on_shots": mixture.score.value,
        "alphas": dict(mixture.alphas),
        "trials": len(mixture.trials),
    }


def _routed(bench: Bench, task: Task, base: Rewards, experts: Sequence[str | None]) -> Section:
    rewards = bench.routed_rewards(task, experts)
    return {"accuracy": _accuracy(_right(rewards)), "over_base": _difference(rewards, base)}


def _right(rewards: Sequence[float | None]) -> list[bool]:
    return [reward is not None and reward > 0 for reward in rewards]


def _accuracy(right: Sequence[bool]) -> Section:
    mean = sum(right) / len(right)
    return {"mean": mean, "ci95": wilson(mean, len(right))}


def _difference(mine: Sequence[float | None], others: Sequence[float | None]) -> Section:
    return asdict(paired(_right(mine), _right(others)))
