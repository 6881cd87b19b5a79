"""What the outcomes of all seeds say of each sampler, as figures and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from scipy import stats

from hetero.statistics import estimate
from samplers.recording import EXPERTS, grid
from samplers.recording import Table as Recorded
from samplers.search import Outcome
from samplers.sides import EVALUATIONS, FEW_EVALUATIONS
from samplers.surfaces import SURFACES

REFERENCE = "cem"
"""The sampler that the others are compared with."""


def summarise(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """Summarise one surface.

    Args:
        outcomes: {sampler: one for each seed, in the same order}.

    Returns:
        {sampler: {evaluations: {what: figures}, "beside_cem": figures}}: medians for losses and their ratios to the
        reference's, with exact intervals; means for accuracies and their differences to the reference's, with
        Student's. Both are paired by seed, after all evaluations.
    """
    found: dict[str, Any] = {}
    for side, mine in outcomes.items():
        found[side] = {
            str(budget): {what: _figures(what, [one[budget][what] for one in mine]) for what in mine[0][budget]}
            for budget in mine[0]
        }
        if side != REFERENCE and REFERENCE in outcomes:
            pairs = zip(mine, outcomes[REFERENCE], strict=True)
            found[side]["beside_cem"] = _beside([(one[EVALUATIONS], other[EVALUATIONS]) for one, other in pairs])
    return found


def _figures(what: str, values: Sequence[float]) -> dict[str, Any]:
    return _median(values) if what == "loss" else _mean(values)


def _beside(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> dict[str, Any]:
    if "loss" in pairs[0][0]:
        return {"ratio": "its loss / cem's", **_median([mine["loss"] / cem["loss"] for mine, cem in pairs])}
    return {"difference": "its true accuracy - cem's", **_mean([mine["true"] - cem["true"] for mine, cem in pairs])}


def _median(values: Sequence[float]) -> dict[str, Any]:
    found = estimate(values)
    return {"median": found.median, "ci95": [found.low, found.high], "coverage": found.coverage}


def _mean(values: Sequence[float]) -> dict[str, Any]:
    """The mean and Student's interval over seeds; one seed has none."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "ci95": None}
    reach = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": mean, "ci95": [mean - reach, mean + reach]}


def known_mixtures(recorded: Recorded) -> dict[str, float]:
    """Measure what a search competes with, on all recorded prompts: the base, each expert, all of them, the best."""
    alphas, accuracy = grid(), recorded.right.mean(axis=1)
    named = {"base": np.zeros(len(EXPERTS)), "all three": np.ones(len(EXPERTS))}
    named |= dict(zip(EXPERTS, np.eye(len(EXPERTS)), strict=True))
    found = {name: float(accuracy[(alphas == point).all(axis=1)].item()) for name, point in named.items()}
    return found | {"best recorded": float(accuracy.max())}


def table(surface: str, found: Mapping[str, Any]) -> Table:
    """Lay out one surface in 80 columns."""
    title = SURFACES[surface].title
    if surface in ("sphere", "rosenbrock"):
        return _losses(title, found)
    return _accuracies(title, found)


def _losses(title: str, found: Mapping[str, Any]) -> Table:
    few, all_ = str(FEW_EVALUATIONS), str(EVALUATIONS)
    shown = _empty(f"{title}: loss, median", "sampler", f"after {few}", f"after {all_}", "over cem's", "95 % interval")
    for side, row in found.items():
        losses = [f"{row[budget]['loss']['median']:.2g}" for budget in (few, all_)]
        beside = row.get("beside_cem")
        ratio = ["", ""] if beside is None else [f"{beside['median']:.2g}", _interval(beside["ci95"], ".2g", 1)]
        shown.add_row(side, *losses, *ratio)
    return shown


def _accuracies(title: str, found: Mapping[str, Any]) -> Table:
    few, all_ = str(FEW_EVALUATIONS), str(EVALUATIONS)
    shown = _empty(
        f"{title}: % right of the other prompts, mean", "sampler", few, all_, "95 % interval", "optimism", "minus cem's"
    )
    for side, row in found.items():
        last = row[all_]
        true = [f"{100 * row[budget]['true']['mean']:.1f}" for budget in (few, all_)]
        beside = row.get("beside_cem")
        difference = "" if beside is None else _interval(beside["ci95"], "+.1f", 100)
        optimism = f"{100 * last['optimism']['mean']:.1f}"
        shown.add_row(side, *true, _interval(last["true"]["ci95"], ".1f", 100), optimism, difference)
    return shown


def _empty(title: str, *columns: str) -> Table:
    shown = Table(title=title, title_justify="left", box=box.SIMPLE)
    for place, column in enumerate(columns):
        shown.add_column(column, justify="right" if place else "left", no_wrap=True)
    return shown


def _interval(ends: Sequence[float] | None, form: str, scale: float) -> str:
    return "" if ends is None else " to ".join(f"{scale * end:{form}}" for end in ends)
