"""Make the demo's measurements, in the form of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from zfleet.tasks.lab import lab_task
from zfleet_cli.demo.lab.bench import Accuracy, Bench, routing_exam, unseen_samples
from zfleet_cli.demo.lab.plan import (
    CLASSIFIER,
    DRAWS,
    EXAMS,
    FEW_SHOT_CASES,
    RANDOM_CONTROL,
    SKILLS,
    UNSEEN,
    WEAK_SKILL,
)
from zfleet_jobs.search.mixtures import FoundMixture

Section = dict[str, Any]


def measure(bench: Bench, parameters: Mapping[str, int], found: Mapping[str, Sequence[FoundMixture]]) -> Section:
    """Measure every accuracy of the report.

    Args:
        bench: A bench with every expert of the plan.
        parameters: {expert: number of trained parameters}.
        found: {exam: the mixture of each draw}.
    """
    mixing = measure_mixing(bench, found)
    return {
        "skills": measure_skills(bench, parameters),
        "controls": measure_controls(bench, parameters),
        "classifier": measure_classifier(bench),
        "mixing": mixing,
        "dispatch": measure_dispatch(bench, mixing),
    }


def measure_skills(bench: Bench, parameters: Mapping[str, int]) -> Section:
    """Measure base, ceiling and expert of each skill."""
    return {name: _skill(bench, name, name, parameters[name]) for name in SKILLS}


def measure_controls(bench: Bench, parameters: Mapping[str, int]) -> Section:
    """Measure the controls, which should not gain: a skill that the base hardly holds, and random rewards."""
    controls = {"weak_skill": (WEAK_SKILL, WEAK_SKILL), "random_reward": ("reverse", RANDOM_CONTROL)}
    section: Section = {}
    for control, (task, expert) in controls.items():
        row = _skill(bench, task, expert, parameters[expert])
        section[control] = {"task": task, "accuracy": row.pop("expert"), **row}
    return section


def measure_classifier(bench: Bench) -> Section:
    """Measure the classifier on kinds of prompts that it was trained on, and on kinds that it never saw."""
    task = lab_task(CLASSIFIER)
    trained, base = bench.accuracy(task, CLASSIFIER), bench.accuracy(task)
    unseen = {family: asdict(bench.label_accuracy(unseen_samples(family), CLASSIFIER)) for family in UNSEEN}
    return {
        "n": trained.n,
        "label_accuracy": trained.accuracy,
        "ci95": trained.ci95,
        "base_label_accuracy": base.accuracy,
        "base_ci95": base.ci95,
        "unseen": unseen,
    }


def measure_mixing(bench: Bench, found: Mapping[str, Sequence[FoundMixture]]) -> Section:
    """Measure each exam: the base, the best single expert (chosen on test or on the shots), and the mixtures found."""
    section: Section = {}
    for exam, experts in EXAMS.items():
        task = lab_task(exam)
        base = bench.accuracy(task)
        singles = {name: bench.accuracy(task, name) for name in experts}
        best = max(singles, key=lambda name: singles[name].accuracy)
        draws = [_draw(bench, exam, mixture, base, singles, best) for mixture in found[exam]]
        section[exam] = {
            "n": base.n,
            "base_ci95": base.ci95,
            "experts": list(experts),
            "singles": {name: asdict(single) for name, single in singles.items()},
            "draws": [{"shots_seed": seed, **draw} for seed, draw in zip(DRAWS, draws, strict=True)],
            "mean": {
                key: sum(draw[key] for draw in draws) / len(draws) for key in ("base", "best_single", "pick_one", "cem")
            },
            "search": _search_facts(found[exam]),
        }
    return section


def measure_dispatch(bench: Bench, mixing: Section) -> Section:
    """Measure dispatch by the base, the classifier and an oracle, and compare it with few-shot mixtures."""
    routing = routing_exam()
    section: Section = {"base": asdict(bench.accuracy(routing))}
    section |= {method: asdict(bench.dispatched(routing, method)) for method in ("prompt", "classifier", "oracle")}
    for case in FEW_SHOT_CASES:
        exam = mixing[case]
        few_shot = exam["draws"][0]
        section[f"{case}_base"] = asdict(Accuracy(exam["n"], few_shot["base"], exam["base_ci95"]))
        section[f"{case}_classifier"] = asdict(bench.dispatched(lab_task(case), "classifier"))
        section[f"{case}_few_shot"] = asdict(Accuracy(exam["n"], few_shot["cem"], few_shot["cem_ci95"]))
    return section


def _skill(bench: Bench, task: str, expert: str, parameters: int) -> Section:
    held_out, clear = lab_task(task), lab_task(task, verbs="clear")
    base, ceiling, trained = bench.accuracy(held_out), bench.accuracy(clear), bench.accuracy(held_out, expert)
    return {
        "n": trained.n,
        "base": base.accuracy,
        "base_ci95": base.ci95,
        "clear_verb": ceiling.accuracy,
        "clear_verb_ci95": ceiling.ci95,
        "expert": trained.accuracy,
        "ci95": trained.ci95,
        "trained_parameters": parameters,
    }


def _draw(
    bench: Bench,
    exam: str,
    mixture: FoundMixture,
    base: Accuracy,
    singles: Mapping[str, Accuracy],
    best: str,
) -> Section:
    cem = bench.mixture_accuracy(lab_task(exam), mixture.z)
    picked = max(mixture.singles, key=lambda name: (mixture.singles[name].value, mixture.singles[name].tie))
    return {
        "base": base.accuracy,
        "best_single": singles[best].accuracy,
        "best_single_expert": best,
        "pick_one": singles[picked].accuracy,
        "pick_one_expert": picked,
        "cem": cem.accuracy,
        "cem_ci95": cem.ci95,
        "cem_on_shots": mixture.score.value,
        "alphas": dict(mixture.alphas),
    }


def _search_facts(found: Sequence[FoundMixture]) -> Section:
    trials = [trial for mixture in found for trial in mixture.trials]
    return {
        "trials": len(trials),
        "generations": len(found[0].history),
        "trials_per_generation": sum(trial.stage == "population" for trial in found[0].trials) / len(found[0].history),
        "actors": len({trial.actor for trial in trials}),
        "batch_rows": sorted({trial.batch_rows for trial in trials}),
        "distinct_z_in_a_batch": max(trial.distinct_z for trial in trials),
        "seconds_per_trial": sum(trial.seconds for trial in trials) / len(trials),
    }
