"""Pictures of the matrix: gains as a heat map, accuracy against shots, regret, cost against gain, reliability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from zfleet.config.evaluate import BASE, ORACLE
from zfleet.pages.drawing import BLUE, GREY, heat_map, panels, picture, whisker
from zfleet.pages.page import Report

Row = dict[str, Any]

_PANEL = (4.3, 3.1)
_COLUMNS = 3
_MARKERS = "osD^v<>P*X"


def gains(report: Report) -> bytes:
    """Draw every way's gain over the base on every task, in points; a star marks what is shown after the correction."""
    tasks, ways = report["tasks"], [way for way in report["ways"] if way != BASE]
    found = {(task, row["way"]): row for task in tasks for row in report["rows"][task]}
    base = {task: found[task, BASE]["accuracy"]["mean"] for task in tasks}
    values = [
        [
            100 * (found[task, way]["accuracy"]["mean"] - base[task]) if (task, way) in found else math.nan
            for task in tasks
        ]
        for way in ways
    ]

    def draw(axes: Axes) -> None:
        labels = [f"{task}\n(base {base[task]:.0%})" for task in tasks]
        heat_map(axes, values, ways, labels, "+.1f")
        for y, way in enumerate(ways):
            for x, task in enumerate(tasks):
                compared = found.get((task, way), {}).get("over_base")
                if compared is not None and compared["verdict"] != "not shown":
                    axes.text(x + 0.42, y - 0.2, "*", ha="right", va="center", fontsize=10)
        axes.spines[:].set_visible(False)
        axes.set_title("Gain over the base, in points (*: shown, corrected for all comparisons)", fontsize=10)

    return picture(draw, width=max(7.0, 1.3 * len(tasks) + 2.5), height=1.4 + 0.36 * len(ways))


def shots(report: Report) -> bytes:
    """Draw accuracy against the number of shots, with the base and the oracle as lines across."""

    def draw(axes: Axes, section: dict[str, Any]) -> None:
        for place, (way, points) in enumerate(section["ways"].items()):
            # Beside each other, so that the intervals do not hide each other.
            x = [number * (1 + 0.02 * place) for number, _ in points]
            axes.plot(
                x, [one["mean"] for _, one in points], "o-", color=f"C{place}", label=way, linewidth=1.2, markersize=3
            )
            for at, (_, one) in zip(x, points, strict=True):
                _interval(axes, at, one)
        for way, style in ((BASE, ":"), (ORACLE, "--")):
            if way in section["levels"]:
                axes.axhline(section["levels"][way], color=GREY, linestyle=style, label=way)
        axes.set_xscale("log")
        numbers = sorted({number for points in section["ways"].values() for number, _ in points})
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.minorticks_off()
        axes.set_xlabel("shots")
        axes.set_ylabel("accuracy on the test")

    return panels({task: partial(draw, section=one) for task, one in report["shots"].items()}, _COLUMNS, _PANEL)


def regret(report: Report) -> bytes:
    """Draw how much less each way has than the oracle, with intervals."""

    def draw(axes: Axes, rows: Sequence[Row]) -> None:
        rows = sorted((row for row in rows if row["regret"] is not None), key=lambda row: row["regret"]["mean"])
        for y, row in enumerate(rows):
            one = row["regret"]
            axes.barh(y, one["mean"], color=GREY if row["kind"] == "base" else BLUE)
            if one["low"] is not None:
                axes.hlines(y, one["low"], one["high"], color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [row["way"] for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_xlabel("regret: the oracle's accuracy less the way's")

    longest = max(len(rows) for rows in report["rows"].values())
    size = (_PANEL[0], 1.0 + 0.24 * longest)
    return panels({task: partial(draw, rows=rows) for task, rows in report["rows"].items()}, _COLUMNS, size)


def cost(report: Report) -> bytes:
    """Draw the gain over the base against the tokens that an answer takes, both passes together."""

    def draw(axes: Axes, rows: Sequence[Row]) -> None:
        base = next(row["accuracy"]["mean"] for row in rows if row["way"] == BASE)
        known = [row for row in rows if row["cost"] is not None and row["way"] != ORACLE]
        for row in known:
            place = report["ways"].index(row["way"])
            x, y = _tokens(row), 100 * (row["accuracy"]["mean"] - base)
            axes.plot(
                x, y, _MARKERS[place % len(_MARKERS)], color=f"C{place % 10}", markersize=5, alpha=0.8, label=row["way"]
            )
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_xlabel("tokens an answer, read and generated")
        axes.set_ylabel("gain over the base, points")

    return panels({task: partial(draw, rows=rows) for task, rows in report["rows"].items()}, _COLUMNS, _PANEL)


def reliability(report: Report) -> bytes:
    """Draw how often each dispatcher is right at each confidence; on the diagonal confidences are probabilities."""

    def draw(axes: Axes, section: dict[str, Any]) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
        most = max(one["n"] for one in section["bins"])
        for one in section["bins"]:
            axes.bar(one["confidence"], one["n"] / most * 0.2, width=0.03, color=GREY, alpha=0.4)
            axes.plot(one["confidence"], one["accuracy"], "o", color=BLUE, markersize=4)
            whisker(axes, one["confidence"], one["accuracy"], tuple(one["ci95"]))
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(0, 1.05)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share named right")

    titles = {f"{way}: calibration error {one['ece']:.3f}": one for way, one in report["reliability"].items()}
    return panels({title: partial(draw, section=one) for title, one in titles.items()}, _COLUMNS, (3.6, 3.2))


def _tokens(row: Row) -> float:
    return float(row["cost"]["tokens"] + row["cost"]["prompt_tokens"])


def _interval(axes: Axes, x: float, one: Row) -> None:
    if one["low"] is not None:
        axes.vlines(x, one["low"], one["high"], color="black", linewidth=0.7)
