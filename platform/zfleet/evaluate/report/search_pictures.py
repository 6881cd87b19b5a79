"""Pictures of searches: the alphas that they found, all that they tried, what mattered, and how they converged."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from zfleet.pages.drawing import heat_map, panels, picture
from zfleet.pages.page import Report

Section = dict[str, Any]

_COLUMNS, _PANEL = 3, (4.3, 3.1)


def alphas(report: Report) -> bytes:
    """Draw the mean alpha of every expert in the mixtures that were found."""
    found = report["alphas"]
    experts = list(dict.fromkeys(name for one in found for name in one["experts"]))
    values = [[float(np.mean(one["experts"].get(name, [np.nan]))) for name in experts] for one in found]

    def draw(axes: Axes) -> None:
        heat_map(axes, values, [f"{one['task']}: {one['way']}" for one in found], experts, ".2f")
        axes.spines[:].set_visible(False)
        axes.set_title("Alphas found, mean over draws and seeds (and layers)", fontsize=10)

    return picture(draw, width=max(9.0, 1.2 * len(experts) + 3.5), height=1.4 + 0.32 * len(found))


def layers(report: Report) -> bytes:
    """Draw the alphas of each layer, or of each matrix or kind of matrix, for mixtures that have them."""

    def draw(axes: Axes, one: Section) -> None:
        names, size = list(one["experts"]), max(map(len, one["experts"].values()))
        heat_map(axes, list(one["experts"].values()), names, [str(place) for place in range(size)], ".2f")
        axes.spines[:].set_visible(False)
        axes.set_xlabel("part of the model, in its order")

    found = {f"{one['task']}: {one['way']}": one for one in split(report)}
    return panels({title: partial(draw, one=one) for title, one in found.items()}, _COLUMNS, (4.3, 2.4))


def split(report: Report) -> list[Section]:
    """Select the mixtures whose experts have several alphas each."""
    return [one for one in report["alphas"] if max(map(len, one["experts"].values())) > 1]


def parallel(report: Report) -> bytes:
    """Draw every candidate as a line over the experts' alphas to its score on the shots, good ones above the others."""

    def draw(axes: Axes, section: Section) -> None:
        rows = np.array(section["rows"])
        least, most = rows[:, -1].min(), rows[:, -1].max()
        shades = (rows[:, -1] - least) / ((most - least) or 1.0)
        for place in np.argsort(shades, kind="stable"):
            axes.plot(
                rows[place], color=colormaps["viridis"](shades[place]), alpha=0.25 + 0.6 * shades[place], linewidth=0.8
            )
        axes.set_xticks(range(rows.shape[1]), [*section["experts"], "score"], rotation=25, ha="right", fontsize=8)
        axes.set_ylabel("alpha; score on the shots")

    found = {f"{task}: {one['way']}": one for task, one in report["candidates"].items()}
    return panels({title: partial(draw, section=one) for title, one in found.items()}, _COLUMNS, _PANEL)


def importance(report: Report) -> bytes:
    """Draw by how much the score on the shots moves with each alpha, with intervals."""

    def draw(axes: Axes, section: Section) -> None:
        experts = list(dict.fromkeys(name for ways in section.values() for name in ways))
        for place, (way, estimates) in enumerate(section.items()):
            for y, name in enumerate(experts):
                if name in estimates:
                    one, at = estimates[name], y + 0.7 * ((place + 0.5) / len(section) - 0.5)
                    axes.plot(one["mean"], at, "o", color=f"C{place}", markersize=4, label=way)
                    axes.hlines(at, one["low"], one["high"], color=f"C{place}", linewidth=1.2)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_yticks(range(len(experts)), experts, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("change of the score for one unit of alpha")

    return panels({task: partial(draw, section=one) for task, one in report["importance"].items()}, _COLUMNS, _PANEL)


def convergence(report: Report) -> bytes:
    """Draw the best score on the shots so far against the answers that the searches used."""

    def draw(axes: Axes, section: Section) -> None:
        for place, (way, lines) in enumerate(section.items()):
            for line in lines:
                x, y = zip(*line, strict=True)
                axes.step(x, y, where="post", color=f"C{place}", label=way, linewidth=1.0, alpha=0.8)
        axes.set_xlabel("answers to shots")
        axes.set_ylabel("best score on the shots")

    return panels({task: partial(draw, section=one) for task, one in report["convergence"].items()}, _COLUMNS, _PANEL)
