"""The measurements: answers under what dispatchers choose, a label learned at run time, and drift."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dispatching.project import CLASSIFIER, Project
from zfleet.adapt.contract import Decision
from zfleet.adapt.drift import DriftAlarm
from zfleet.evaluate.statistics.single import paired
from zfleet.models.lab.skills import KINDS
from zfleet.tasks.lab import lab_task
from zfleet.tasks.task import Sample
from zfleet_jobs.calibrate.data import calibrates

Section = dict[str, Any]

DISPATCHERS: dict[str, Section] = {
    "prompt": {},
    "classifier": {"classifier": CLASSIFIER},
    "soft": {"classifier": CLASSIFIER},
    "nearest": {},
    "cascade": {"classifier": CLASSIFIER, "steps": ["nearest", "classifier"]},
}
"""{kind: keys of its spec}."""

UNSEEN = ("reverse_digits", "sort_digits", "table_sum", "rotate")
"""Kinds of prompts without a label; their experts were never trained on them. The corpus does not have the last one."""

NEW = {"lookup": "lookup", "sort_digits": "sort", "table_sum": "add"}
"""{lab task whose prompts are a new label: the expert that answers it}."""
EXAMPLES = 20

REQUESTS, SOON, SHARE, STREAMS = 5000, 500, 0.2, 20
"""Of the drift: usual requests, requests by which it must be told, share of unseen prompts, and streams."""


def measure_dispatchers(project: Project) -> Section:
    """Calibrate each kind, and answer held-out prompts of seen and of unseen kinds under what it chooses."""
    seen = [sample for kind in KINDS for sample in measured_samples(kind)]
    unseen = {kind: list(lab_task(kind).test) for kind in UNSEEN}
    base = project.right(seen, [{}] * len(seen))
    oracle = project.right(seen, [{f"{sample.fields['kind']}/1": 1.0} for sample in seen])
    base_unseen = {kind: project.right(samples, [{}] * len(samples)) for kind, samples in unseen.items()}
    section: Section = {
        "n": len(seen),
        "base": _mean(base),
        "oracle": _mean(oracle),
        "oracle_less_base": _paired(oracle, base),
    }
    for kind, keys in DISPATCHERS.items():
        result = project.calibrate(kind, {label: label for label in KINDS}, **keys)
        dispatcher = project.opened(result.reference)
        decisions = project.decide(dispatcher, seen)
        right = project.right(seen, [decision.mixture for decision in decisions])
        assert result.measured is not None
        section[kind] = {
            "seen": asdict(result.measured)
            | {
                "thresholds": list(result.thresholds),
                "answered_right": _mean(right),
                "less_base": _paired(right, base),
                "regret": _paired(oracle, right),
                "not_recognised": _strange(decisions),
            },
            "unseen": {
                name: _on_unseen(project, samples, project.decide(dispatcher, samples), base_unseen[name])
                for name, samples in unseen.items()
            },
            "drift": measure_drift(project, result.reference, seen, [one for each in unseen.values() for one in each]),
        }
    return section


def measure_new_labels(project: Project) -> Section:
    """Add a label to a ``nearest`` dispatcher from twenty examples: seconds, recall, and what the old labels lose."""
    section: Section = {}
    old = ("reverse", "sort", "add")
    first = project.calibrate("nearest", {label: label for label in old}, name="three")
    before = project.opened(first.reference)
    known = [sample for kind in old for sample in measured_samples(kind)]
    was = project.decide(before, known)
    for task, expert in NEW.items():
        began = time.perf_counter()
        added = project.calibrate(
            "nearest", {task: expert}, name=f"with-{task}", examples=EXAMPLES, extend=first.reference
        )
        seconds = time.perf_counter() - began
        after = project.opened(added.reference)
        fresh = list(lab_task(task).test)
        found, now = project.decide(after, fresh), project.decide(after, known)
        section[task] = {
            "seconds": seconds,
            "recall": _mean([decision.label == task and bool(decision.mixture) for decision in found]),
            "recognised_before": 1 - _strange(project.decide(before, fresh)),
            "old_n": len(known),
            "old_loss": _paired(_routed_right(known, was), _routed_right(known, now)),
        }
    return section


def measure_drift(project: Project, reference: str, usual: Sequence[Sample], unseen: Sequence[Sample]) -> Section:
    """Let a dispatcher's alarm watch streams of usual requests, and of requests of which a fifth are unseen."""
    stored = project.stored(reference)
    assert stored.document.facts is not None
    dispatcher = project.opened(reference)
    strange = {
        name: [decision.label is None for decision in project.decide(dispatcher, list(samples))]
        for name, samples in (("usual", usual), ("unseen", unseen))
    }
    bound = stored.document.facts.strange_at_most
    false, told = [], []
    for seed in range(STREAMS):
        rng = random.Random(seed)
        alarm = DriftAlarm(bound)
        false.append(any(alarm.observe(rng.choice(strange["usual"])) for _ in range(REQUESTS)))
        alarm = DriftAlarm(bound)
        for _ in range(SOON):
            alarm.observe(rng.choice(strange["unseen" if rng.random() < SHARE else "usual"]))
        told.append(alarm.raised)
    in_time = [place for place in told if place is not None]
    return {
        "usual_at_most": bound,
        "usual": sum(strange["usual"]) / len(usual),
        "unseen": sum(strange["unseen"]) / len(unseen),
        "streams": STREAMS,
        "false_alarms": sum(false),
        "told": len(in_time),
        "requests_until_told": statistics.median(in_time) if in_time else None,
    }


def measured_samples(kind: str) -> list[Sample]:
    """Return the held-out prompts of a task that calibrate no dispatcher."""
    return [sample for sample in lab_task(kind).test if not calibrates(sample.prompt)]


def _on_unseen(project: Project, samples: list[Sample], decisions: list[Decision], base: list[bool]) -> Section:
    right = project.right(samples, [decision.mixture for decision in decisions])
    return {
        "n": len(samples),
        "base": _mean(base),
        "answered_right": _mean(right),
        "less_base": _paired(right, base),
        "routed": _mean([bool(decision.mixture) for decision in decisions]),
        "not_recognised": _strange(decisions),
    }


def _routed_right(samples: Sequence[Sample], decisions: Sequence[Decision]) -> list[bool]:
    return [
        decision.label == sample.fields["kind"] and bool(decision.mixture)
        for sample, decision in zip(samples, decisions, strict=True)
    ]


def _strange(decisions: Sequence[Decision]) -> float:
    return _mean([decision.label is None for decision in decisions])


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _paired(first: Sequence[bool], second: Sequence[bool]) -> Section:
    return asdict(paired(first, second))
