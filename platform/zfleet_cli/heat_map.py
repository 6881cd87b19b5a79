"""Heat maps of the interference between experts."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import combinations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from zfleet.svf.interference import Interference

_MOST_NUMBERS = 20
"""Rows of a map with a number in each cell; more would not be readable."""
_MOST_NAMES = 60
"""Rows of a map that are named."""


def draw_interference(found: Interference) -> bytes:
    """Draw a PNG: cosine and overlap of all pairs of experts, and the cosine of each pair in each matrix.

    Cells of an expert that changes nothing are grey.
    """
    count = len(found.experts)
    pairs = list(combinations(range(count), 2))
    by_matrix = torch.stack([torch.stack([one.cosine[a, b] for a, b in pairs]) for one in found.matrices.values()])
    side, width = 2.5 + 0.5 * min(count, _MOST_NAMES), 3.5 + 0.35 * min(len(pairs), _MOST_NAMES)
    height = max(side, 1.5 + 0.22 * min(len(found.matrices), _MOST_NAMES))
    figure, axes = plt.subplots(
        1, 3, figsize=(2 * side + width, height), dpi=110, layout="constrained", width_ratios=(side, side, width)
    )
    _map(axes[0], found.overall.cosine, found.experts, found.experts, "cosine, all matrices", -1)
    _map(axes[1], found.overall.overlap, found.experts, found.experts, "overlap, all matrices", 0)
    names = [f"{found.experts[a]} · {found.experts[b]}" for a, b in pairs]
    _map(axes[2], by_matrix, tuple(found.matrices), names, "cosine in each matrix", -1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()


def _map(axes: Axes, values: Tensor, rows: Sequence[str], columns: Sequence[str], title: str, least: int) -> None:
    colours = plt.get_cmap("RdBu_r" if least else "Blues").with_extremes(bad="0.8")
    image = axes.imshow(values.numpy(), cmap=colours, vmin=least, vmax=1, aspect="auto")
    axes.set_title(title)
    for axis, names in ((axes.yaxis, rows), (axes.xaxis, columns)):
        axis.set_ticks(range(len(names)), names if len(names) <= _MOST_NAMES else [""] * len(names), fontsize=7)
    axes.tick_params(axis="x", rotation=90)
    if max(values.shape) <= _MOST_NUMBERS:
        for row, column in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
            value = float(values[row, column])
            dark = abs(value) > 0.6
            text = "–" if math.isnan(value) else f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.figure.colorbar(image, ax=axes, shrink=0.7)
