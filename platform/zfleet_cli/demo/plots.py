"""Draw the demo's pictures from the report, with a function for each picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from zfleet_cli.demo.plan import FEW_SHOT_CASES, SHOTS, train_spec

Report = dict[str, Any]
Interval = tuple[float, float]

_GREY, _BLUE, _GREEN, _ORANGE, _PALE = "#9aa0a6", "#4c78a8", "#2e8b57", "#e08214", "#a6d0b4"


def skills(report: Report) -> bytes:
    """Draw base, ceiling and expert of each skill and of each control."""
    rows = {name: (row, row["expert"]) for name, row in report["skills"].items()}
    for name, row in report["controls"].items():
        rows[f"{name.replace('_', ' ')}\n({row['task']})"] = (row, row["accuracy"])

    def draw(axes: Axes) -> None:
        values = list(rows.values())
        _bars(axes, 0, 3, [r["base"] for r, _ in values], [r["base_ci95"] for r, _ in values], _GREY, "base")
        ceilings = [r["clear_verb_ci95"] for r, _ in values]
        _bars(axes, 1, 3, [r["clear_verb"] for r, _ in values], ceilings, _BLUE, "base, asked with the clear verb")
        _bars(axes, 2, 3, [value for _, value in values], [r["ci95"] for r, _ in values], _GREEN, "expert")
        _finish(axes, list(rows), "accuracy on held-out prompts", "What training gained, and the controls")
        axes.axvline(len(report["skills"]) - 0.5, color="black", linewidth=0.8, linestyle=":")

    return _picture(draw, width=9)


def curves(report: Report) -> bytes:
    """Draw the mean reward of the rollouts over the training steps."""
    learner = train_spec().learner

    def draw(axes: Axes) -> None:
        for name, curve in report["curves"].items():
            control = name.endswith("-random")
            style = "--" if control else "-"
            axes.plot(
                [step for step, _ in curve],
                [value for _, value in curve],
                style,
                label=f"{name} (control)" if control else name,
                linewidth=1.4,
            )
        axes.set_xlabel(f"step ({learner.prompts_per_step * learner.samples_per_prompt} rollouts each)")
        axes.set_ylabel("mean reward of rollouts")
        axes.set_ylim(-1.05, 1.05)
        axes.set_title("Reward while training")
        axes.legend(fontsize=8, loc="lower right", ncols=2)

    return _picture(draw, width=9)


def mixing(report: Report) -> bytes:
    """Draw base, single experts and mixtures for each exam, with a dot for each draw."""
    exams = report["mixing"]

    def draw(axes: Axes) -> None:
        series = (
            ("base", _GREY, "base"),
            ("best_single", _BLUE, "best single (chosen on test)"),
            ("pick_one", _ORANGE, f"best single (chosen on {SHOTS} shots)"),
            ("cem", _GREEN, f"mixture by CEM ({SHOTS} shots)"),
        )
        for place, (key, color, label) in enumerate(series):
            means = [exam["mean"][key] for exam in exams.values()]
            positions = _positions(len(means), place, len(series))
            axes.bar(positions, means, 0.8 / len(series), color=color, label=label)
            for x, exam in zip(positions, exams.values(), strict=True):
                values = [draw[key] for draw in exam["draws"]]
                axes.plot([x] * len(values), values, "o", color="black", markersize=2.5)
        _finish(axes, [name.replace("_", " ") for name in exams], "accuracy on held-out prompts", "Mixing")

    return _picture(draw, width=9)


def dispatch(report: Report) -> bytes:
    """Draw the accuracy of each dispatch method."""
    rows = report["dispatch"]
    series = {
        "base": (_GREY, "base"),
        "prompt": (_PALE, "the base dispatches"),
        "classifier": (_GREEN, "the classifier dispatches"),
        "few_shot": (_ORANGE, f"mixture by CEM ({SHOTS} shots)"),
        "oracle": (_BLUE, "oracle"),
    }
    groups = {"": "trained skills", **{f"{case}_": case.replace("_", " ") for case in FEW_SHOT_CASES}}

    def draw(axes: Axes) -> None:
        labelled: set[str] = set()
        for group, prefix in enumerate(groups):
            methods = [method for method in series if f"{prefix}{method}" in rows]
            for place, method in enumerate(methods):
                row, (color, label) = rows[f"{prefix}{method}"], series[method]
                x = group + (place - (len(methods) - 1) / 2) * 0.2
                axes.bar(x, row["accuracy"], 0.2, color=color, label=None if method in labelled else label)
                _whisker(axes, x, row["accuracy"], row["ci95"])
                labelled.add(method)
        title = "Dispatch: prompts of the trained skills, and of kinds that no expert was trained on"
        _finish(axes, list(groups.values()), "accuracy on held-out prompts", title)

    return _picture(draw, width=9)


PICTURES: dict[str, Callable[[Report], bytes]] = {
    "skills": skills,
    "curves": curves,
    "mixing": mixing,
    "dispatch": dispatch,
}
"""{file name: function that draws the picture}."""


def _picture(draw: Callable[[Axes], None], width: float) -> bytes:
    figure, axes = plt.subplots(figsize=(width, 4.2), dpi=120, layout="constrained")
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    plt.close(figure)
    return out.getvalue()


def _positions(count: int, place: int, series: int) -> list[float]:
    return [group - 0.4 + (place + 0.5) * 0.8 / series for group in range(count)]


def _bars(
    axes: Axes, place: int, series: int, values: list[float], intervals: list[Interval], color: str, label: str
) -> None:
    positions = _positions(len(values), place, series)
    axes.bar(positions, values, 0.8 / series, color=color, label=label)
    for x, value, interval in zip(positions, values, intervals, strict=True):
        _whisker(axes, x, value, interval)


def _whisker(axes: Axes, x: float, value: float, interval: Interval) -> None:
    below, above = max(value - interval[0], 0), max(interval[1] - value, 0)
    axes.errorbar(x, value, yerr=[[below], [above]], color="black", capsize=2, linewidth=0.8)


def _finish(axes: Axes, names: list[str], ylabel: str, title: str) -> None:
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=5, frameon=False)
