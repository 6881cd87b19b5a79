"""The picture of a lineage: a column for each generation, arrows from parents to children."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from zfleet.pages.drawing import BLUE, GREEN, GREY, ORANGE, PALE, picture
from zfleet_registry.lineage import Edge, Lineage, Node
from zfleet_registry.references import parse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"expert": BLUE, "mixture": GREEN, "transfer": ORANGE, "dispatcher": PALE, "unknown": GREY}
_COLUMN, _ROW = 3.4, 0.8
"""Inches for a generation, and for a version in it."""


def draw_lineage(lineage: Lineage, form: Literal["png", "svg"]) -> bytes:
    """Draw a lineage as a PNG or an SVG."""
    columns = Counter(node.generation for node in lineage.nodes)
    tallest = max(columns.values())
    places: dict[str, tuple[float, float]] = {}
    for node in lineage.nodes:
        row = sum(1 for name in places if places[name][0] == node.generation)
        places[node.version] = (float(node.generation), (row + 0.5) * tallest / columns[node.generation])

    def draw(axes: Axes) -> None:
        for edge in lineage.edges:
            _arrow(axes, edge, places)
        for node in lineage.nodes:
            _box(axes, node, places[node.version])
        axes.set_xlim(-0.5, max(columns) + 0.5)
        axes.set_ylim(tallest, 0)
        axes.set_axis_off()

    return picture(draw, _COLUMN * len(columns), max(1.2, _ROW * tallest), form)


def _box(axes: Axes, node: Node, place: tuple[float, float]) -> None:
    parsed = parse(node.version)
    name, base = f"{parsed.name}/{parsed.version}", parsed.base_slug
    marks = f"\n@{', @'.join(node.aliases)}" if node.aliases else ""
    style = {"boxstyle": "round,pad=0.4", "facecolor": _COLORS[node.kind], "edgecolor": "none", "alpha": 0.35}
    axes.text(*place, f"{name}{marks}\n{node.kind} of {base}", ha="center", va="center", fontsize=8, bbox=style)


def _arrow(axes: Axes, edge: Edge, places: Mapping[str, tuple[float, float]]) -> None:
    (x0, y0), (x1, y1) = places[edge.parent], places[edge.child]
    arrow = {"arrowstyle": "->", "color": GREY, "shrinkA": 55, "shrinkB": 55}
    axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
    label = f"{edge.alpha:.3g}" if edge.relation == "mixed" and isinstance(edge.alpha, int | float) else edge.relation
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    axes.text((x0 + x1) / 2, (y0 + y1) / 2, label, ha="center", va="center", fontsize=7, color=GREY, bbox=behind)
