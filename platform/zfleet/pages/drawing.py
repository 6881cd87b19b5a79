"""What the reports' pictures share: bars in groups with intervals, and the PNG that they become."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Interval = tuple[float, float]

GREY, BLUE, GREEN, ORANGE, PALE = "#9aa0a6", "#4c78a8", "#2e8b57", "#e08214", "#a6d0b4"


def picture(
    draw: Callable[[Axes], None], width: float, height: float = 4.2, form: Literal["png", "svg"] = "png"
) -> bytes:
    """Draw on the axes of a new figure of this size in inches, and return it as a PNG or an SVG."""
    figure, axes = plt.subplots(figsize=(width, height), dpi=120, layout="constrained")
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, form)


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


def panels(draws: Mapping[str, Callable[[Axes], None]], columns: int, size: Interval) -> bytes:
    """Draw on several axes of a new figure, and return it as a PNG.

    Args:
        draws: {title: function that draws on its axes}, row by row.
        columns: The most in a row.
        size: Width and height of each, in inches.
    """
    # Four are two rows of two, not a row of three and one that is alone.
    wide = min(columns, len(draws) if len(draws) != columns + 1 else -(-len(draws) // 2))
    rows = -(-len(draws) // wide)
    inches = (size[0] * wide, size[1] * rows)
    figure, grid = plt.subplots(rows, wide, figsize=inches, dpi=120, layout="constrained", squeeze=False)
    for axes, (title, draw) in zip(grid.flat, draws.items(), strict=False):
        draw(axes)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(draws) :]:
        axes.set_visible(False)
    _legend_below(figure, grid.flat[: len(draws)])
    return _saved(figure)


def heat_map(
    axes: Axes, values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], text: str
) -> None:
    """Draw values as colours around 0, each with its number; NaN stays empty.

    Args:
        values: [rows][columns].
        text: The format of a number.
    """
    most = max((abs(value) for row in values for value in row if not math.isnan(value)), default=0.0) or 1.0
    axes.imshow(values, cmap="RdYlGn", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if not math.isnan(value):
                shade = "white" if abs(value) > 0.75 * most else "black"
                axes.text(x, y, format(value, text), ha="center", va="center", fontsize=8, color=shade)


def _legend_below(figure: Figure, axes: Iterable[Axes]) -> None:
    """Put one legend for all axes below them; a label that several have stands once."""
    labelled = {label: handle for one in axes for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    if labelled:
        figure.legend(
            labelled.values(), labelled.keys(), loc="outside lower center", ncols=5, fontsize=8, frameon=False
        )


def _saved(figure: Figure, form: Literal["png", "svg"] = "png") -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=form)
    plt.close(figure)
    return out.getvalue()
