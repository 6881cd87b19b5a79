"""Mixtures in the report: their alphas, what was tried on the way to them, and which alphas mattered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from zfleet.evaluate.cells import Cell, numbers_of
from zfleet.evaluate.statistics.regression import coefficients
from zfleet.evaluate.traces import SearchTrace

_LINES = 150
"""The most candidates of a task in a picture: more of them hide each other."""


def alphas(cells: Sequence[Cell], tasks: Sequence[str], shots: int) -> list[dict[str, Any]]:
    """List the mixtures that searches found, with the mean over draws and seeds of every alpha.

    Returns:
        For each task and way: `experts`, {reference: [its alphas]}, one or one for each layer, matrix or kind of
        matrix; and how many searches they are the mean of.
    """
    grouped: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.kind == "search" and cell.key.shots == shots:
            grouped[cell.key.task, cell.key.way].append(cell)
    found = []
    for (task, way), some in sorted(grouped.items(), key=lambda item: tasks.index(item[0][0])):
        mixtures = [cell.mixtures[0] for cell in some]
        experts = {
            name: np.mean([numbers_of(mixture[name]) for mixture in mixtures], axis=0).tolist() for name in mixtures[0]
        }
        found.append({"task": task, "way": way, "searches": len(some), "experts": experts})
    return found


def candidates(traces: Sequence[SearchTrace], tasks: Sequence[str], shots: int) -> dict[str, Any]:
    """Return candidates of each task's first search that answered every shot: alphas, and the score on the shots.

    Returns:
        {task: {`way`, `experts`, `rows` [[alphas..., score]]}}.
    """
    found: dict[str, Any] = {}
    for task in tasks:
        own = _of(traces, task, shots)
        ways = list(dict.fromkeys(trace.key.way for trace in own))
        if not ways:
            continue
        tried = [one for trace in own if trace.key.way == ways[0] for one in trace.candidates if one.shots == shots]
        if tried:
            step = -(-len(tried) // _LINES)
            rows = [[*one.alphas.values(), one.value] for one in tried[::step]]
            found[task] = {"way": ways[0], "experts": list(tried[0].alphas), "rows": rows}
    return found


def importance(traces: Sequence[SearchTrace], tasks: Sequence[str], shots: int) -> dict[str, Any]:
    """Estimate by how much the score on the shots moves with each expert's alpha, over all candidates of a way.

    Returns:
        {task: {way: {expert: estimate}}}; ways with too few candidates are left out.
    """
    found: dict[str, Any] = {}
    for task in tasks:
        own = _of(traces, task, shots)
        for way in dict.fromkeys(trace.key.way for trace in own):
            tried = [(trace.key, one) for trace in own if trace.key.way == way for one in trace.candidates]
            estimates = coefficients(
                [list(one.alphas.values()) for _, one in tried],
                [one.value for _, one in tried],
                [one.shots for _, one in tried],
                [key for key, _ in tried],
            )
            if estimates is not None:
                named = zip(tried[0][1].alphas, map(asdict, estimates), strict=True)
                found.setdefault(task, {})[way] = dict(named)
    return found


def convergence(traces: Sequence[SearchTrace], tasks: Sequence[str], shots: int) -> dict[str, Any]:
    """Return the best score on the shots so far against the answers that a search has used.

    Returns:
        {task: {way: [[(answers, best)] of each search]}}.
    """
    found: dict[str, Any] = {}
    for task in tasks:
        for trace in _of(traces, task, shots):
            best = np.maximum.accumulate([generation.best for generation in trace.history]).tolist()
            line = [(generation.answers, value) for generation, value in zip(trace.history, best, strict=True)]
            found.setdefault(task, {}).setdefault(trace.key.way, []).append(line)
    return found


def _of(traces: Sequence[SearchTrace], task: str, shots: int) -> list[SearchTrace]:
    return [trace for trace in traces if trace.key.task == task and trace.key.shots == shots]
