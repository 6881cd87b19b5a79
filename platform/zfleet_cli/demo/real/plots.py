"""Draw the pictures of the demo on a pretrained model, with a function for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from zfleet.pages.drawing import BLUE, GREEN, GREY, ORANGE, PALE, bars, finish, picture
from zfleet.pages.page import Report

_Y = "accuracy on held-out prompts"


def tasks(report: Report) -> bytes:
    """Draw base, SVF and LoRA on each task."""
    rows = report["tasks"]

    def draw(axes: Axes) -> None:
        _series(axes, 0, 3, [row["base"] for row in rows.values()], GREY, "base")
        _series(axes, 1, 3, [row["svf"]["accuracy"] for row in rows.values()], GREEN, "expert by SVF")
        _series(axes, 2, 3, [row["lora"]["accuracy"] for row in rows.values()], BLUE, "LoRA, same budget")
        finish(axes, [_words(name) for name in rows], _Y, "What training gained")

    return picture(draw, width=9)


def curves(report: Report) -> bytes:
    """Draw the mean reward of the samples over the training steps."""

    def draw(axes: Axes) -> None:
        for place, (name, row) in enumerate(report["tasks"].items()):
            for method, style in (("svf", "-"), ("lora", ":")):
                curve = row[method]["curve"]
                axes.plot(
                    [step for step, _ in curve],
                    [reward for _, reward in curve],
                    style,
                    color=f"C{place}",
                    label=f"{_words(name)}, {'SVF' if method == 'svf' else 'LoRA'}",
                )
        axes.set_xlabel(f"step ({report['settings']['samples_per_step']} samples each)")
        axes.set_ylabel("mean reward of samples")
        axes.set_ylim(-1.05, 1.05)
        axes.set_title("Reward while training")
        axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)

    return picture(draw, width=9)


def adaptation(report: Report) -> bytes:
    """Draw the exams: base, best single expert, dispatch and mixtures."""
    exams, dispatch = report["mixing"], report["dispatch"]

    def draw(axes: Axes) -> None:
        rows = list(exams.values())
        draws = len(rows[0]["draws"])
        count = 2 + draws
        _series(axes, 0, count + 3, [row["base"] for row in rows], GREY, "base")
        _series(axes, 1, count + 3, [row["singles"][row["best_single"]] for row in rows], BLUE, "best single, on test")
        for place in range(draws):
            label = "mixture" if draws == 1 else f"mixture, draw {place}"
            _series(axes, 2 + place, count + 3, [row["draws"][place]["mixture"] for row in rows], ORANGE, label)
        # Dispatch is measured on the exam of trained tasks alone.
        for place, (method, color) in enumerate((("prompt", PALE), ("classifier", GREEN), ("oracle", "#555555"))):
            first = [dispatch[method]["accuracy"]]
            _series(axes, count + place, count + 3, first, color, f"dispatch: {method}")
        finish(axes, [_words(name) for name in exams], _Y, "Adapting to prompts: dispatch and few-shot mixtures")

    return picture(draw, width=9)


PICTURES: dict[str, Callable[[Report], bytes]] = {"tasks": tasks, "curves": curves, "adaptation": adaptation}
"""{file name: function that draws the picture}."""


def _series(axes: Axes, place: int, series: int, rows: Sequence[dict[str, Any]], color: str, label: str) -> None:
    bars(axes, place, series, [row["mean"] for row in rows], [row["ci95"] for row in rows], color, label)


def _words(name: str) -> str:
    return name.replace("_", " ")
