"""What the reports' pictures share: bars in groups with intervals, and the PNG that they become."""

from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Interval = tuple[float, float]

GREY, BLUE, GREEN, ORANGE, PALE = "#9aa0a6", "#4c78a8", "#2e8b57", "#e08214", "#a6d0b4"


def picture(draw: Callable[[Axes], None], width: float) -> bytes:
    """Draw on the axes of a new figure, ``width`` inches wide, and return it as a PNG."""
    figure, axes = plt.subplots(figsize=(width, 4.2), dpi=120, layout="constrained")
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    plt.close(figure)
    return out.getvalue()


def positions(count: int, place: int, series: int) -> list[float]:
    """Return the centre of one series' bar in each of ``count`` groups."""
    return [group - 0.4 + (place + 0.5) * 0.8 / series for group in range(count)]


def bars(
    axes: Axes, place: int, series: int, values: list[float], intervals: list[Interval], color: str, label: str
) -> None:
    """Draw one series: a bar with its interval in each group."""
    centres = positions(len(values), place, series)
    axes.bar(centres, values, 0.8 / series, color=color, label=label)
    for x, value, interval in zip(centres, values, intervals, strict=True):
        whisker(axes, x, value, interval)


def whisker(axes: Axes, x: float, value: float, interval: Interval) -> None:
    """Draw an interval around a value."""
    below, above = max(value - interval[0], 0), max(interval[1] - value, 0)
    axes.errorbar(x, value, yerr=[[below], [above]], color="black", capsize=2, linewidth=0.8)


def finish(axes: Axes, names: list[str], ylabel: str, title: str) -> None:
    """Name the groups, the axis from 0 to 1, the series and the picture."""
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=5, frameon=False)
