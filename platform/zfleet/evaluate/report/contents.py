"""What the page and its pictures show, as plain data: computed from the matrix, the cells and the searches' traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from zfleet.config.evaluate import BASE, ORACLE
from zfleet.evaluate.about import About
from zfleet.evaluate.cells import Cell
from zfleet.evaluate.matrix import Entry, Matrix
from zfleet.evaluate.report.dispatch import reliabilities
from zfleet.evaluate.report.mixtures import alphas, candidates, convergence, importance
from zfleet.evaluate.traces import SearchTrace
from zfleet.pages.page import Report


def contents(about: About, matrix: Matrix, cells: Sequence[Cell], traces: Sequence[SearchTrace]) -> Report:
    """Compute the report of a run. A section that the run has no data for is empty."""
    return {
        "about": asdict(about),
        "seconds": dict(about.seconds),
        "tasks": matrix.tasks,
        "ways": list(dict.fromkeys(entry.way for entry in matrix.entries)),
        "rows": {task: [_row(entry) for entry in matrix.of_task(task)] for task in matrix.tasks},
        "comparisons": sum(entry.over_base is not None for entry in matrix.entries),
        "detectable": {task: matrix.detectable(task) for task in matrix.tasks},
        "shots": {task: _against_shots(matrix, task) for task in matrix.tasks if len(about.shots) > 1},
        "alphas": alphas(cells, about.tasks, max(about.shots)),
        "candidates": candidates(traces, about.tasks, max(about.shots)),
        "importance": importance(traces, about.tasks, max(about.shots)),
        "convergence": convergence(traces, about.tasks, max(about.shots)),
        "reliability": reliabilities(cells),
        "optimism": _optimism(matrix, traces),
    }


def _row(entry: Entry) -> dict[str, Any]:
    compared = {
        name: None if one is None else asdict(one) | {"verdict": one.verdict}
        for name, one in (("over_base", entry.over_base), ("over_named", entry.over_named))
    }
    return asdict(entry) | compared


def _against_shots(matrix: Matrix, task: str) -> dict[str, Any]:
    """Return the accuracy of each way that sees shots by their number, and of the base and the oracle beside them."""
    of_task = [entry for entry in matrix.entries if entry.task == task]
    ways = dict.fromkeys(entry.way for entry in of_task if entry.shots is not None)
    return {
        "ways": {way: [(one.shots, asdict(one.accuracy)) for one in of_task if one.way == way] for way in ways},
        "levels": {one.way: one.accuracy.mean for one in of_task if one.way in (BASE, ORACLE)},
    }


def _optimism(matrix: Matrix, traces: Sequence[SearchTrace]) -> dict[str, dict[str, Any]]:
    """Compare what searches score on their own shots with what their mixtures answer of the test, way by way."""
    found: dict[str, dict[str, Any]] = {}
    for entry in matrix.entries:
        own = [
            trace
            for trace in traces
            if (trace.key.task, trace.key.way, trace.key.shots) == (entry.task, entry.way, entry.shots)
        ]
        if own:
            found[f"{entry.way}, {entry.shots} shots, {entry.task}"] = {
                "task": entry.task,
                "way": entry.way,
                "shots": entry.shots,
                "searches": len(own),
                "on_shots": sum(trace.value for trace in own) / len(own),
                "on_test": entry.accuracy.mean,
                "answers": sum(trace.answers for trace in own) / len(own),
            }
    return found
