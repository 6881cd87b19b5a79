"""Draw the demo's pictures from the report, with a function for each picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes

from zfleet.pages.drawing import BLUE, GREEN, GREY, ORANGE, PALE, bars, finish, picture, positions, whisker
from zfleet_cli.demo.lab.plan import FEW_SHOT_CASES, SHOTS, train_spec

Report = dict[str, Any]


def skills(report: Report) -> bytes:
    """Draw base, ceiling and expert of each skill and of each control."""
    rows = {name: (row, row["expert"]) for name, row in report["skills"].items()}
    for name, row in report["controls"].items():
        rows[f"{name.replace('_', ' ')}\n({row['task']})"] = (row, row["accuracy"])

    def draw(axes: Axes) -> None:
        values = list(rows.values())
        bars(axes, 0, 3, [r["base"] for r, _ in values], [r["base_ci95"] for r, _ in values], GREY, "base")
        ceilings = [r["clear_verb_ci95"] for r, _ in values]
        bars(axes, 1, 3, [r["clear_verb"] for r, _ in values], ceilings, BLUE, "base, asked with the clear verb")
        bars(axes, 2, 3, [value for _, value in values], [r["ci95"] for r, _ in values], GREEN, "expert")
        finish(axes, list(rows), "accuracy on held-out prompts", "What training gained, and the controls")
        axes.axvline(len(report["skills"]) - 0.5, color="black", linewidth=0.8, linestyle=":")

    return picture(draw, width=9)


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

    return picture(draw, width=9)


def mixing(report: Report) -> bytes:
    """Draw base, single experts and mixtures for each exam, with a dot for each draw."""
    exams = report["mixing"]

    def draw(axes: Axes) -> None:
        series = (
            ("base", GREY, "base"),
            ("best_single", BLUE, "best single (chosen on test)"),
            ("pick_one", ORANGE, f"best single (chosen on {SHOTS} shots)"),
            ("cem", GREEN, f"mixture by CEM ({SHOTS} shots)"),
        )
        for place, (key, color, label) in enumerate(series):
            means = [exam["mean"][key] for exam in exams.values()]
            centres = positions(len(means), place, len(series))
            axes.bar(centres, means, 0.8 / len(series), color=color, label=label)
            for x, exam in zip(centres, exams.values(), strict=True):
                values = [draw[key] for draw in exam["draws"]]
                axes.plot([x] * len(values), values, "o", color="black", markersize=2.5)
        finish(axes, [name.replace("_", " ") for name in exams], "accuracy on held-out prompts", "Mixing")

    return picture(draw, width=9)


def dispatch(report: Report) -> bytes:
    """Draw the accuracy of each dispatch method."""
    rows = report["dispatch"]
    series = {
        "base": (GREY, "base"),
        "prompt": (PALE, "the base dispatches"),
        "classifier": (GREEN, "the classifier dispatches"),
        "few_shot": (ORANGE, f"mixture by CEM ({SHOTS} shots)"),
        "oracle": (BLUE, "oracle"),
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
                whisker(axes, x, row["accuracy"], row["ci95"])
                labelled.add(method)
        title = "Dispatch: prompts of the trained skills, and of kinds that no expert was trained on"
        finish(axes, list(groups.values()), "accuracy on held-out prompts", title)

    return picture(draw, width=9)


PICTURES: dict[str, Callable[[Report], bytes]] = {
    "skills": skills,
    "curves": curves,
    "mixing": mixing,
    "dispatch": dispatch,
}
"""{file name: function that draws the picture}."""
