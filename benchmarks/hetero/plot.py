"""The picture of a report: tokens a second of each configuration, and the ratios with their bars."""

from __future__ import annotations

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from hetero.configurations import CONFIGURATIONS
from hetero.report import Report

_COLORS = {
    "plain": "#9aa0a6",
    "compiled": "#9aa0a6",
    "exact": "#2e8b57",
    "exact_held": "#2e8b57",
    "mlp": "#2e8b57",
    "rank64": "#4c78a8",
}
_OTHERS = "#e08214"


def picture(shown: Report) -> bytes:
    """A PNG."""
    count = len(shown["configurations"]) + len(shown["ratios"])
    figure, (rates, ratios) = plt.subplots(
        2,
        1,
        figsize=(9, 1.8 + 0.3 * count),
        height_ratios=[len(shown["configurations"]), len(shown["ratios"])],
        layout="constrained",
    )
    _rates(rates, shown)
    _ratios(ratios, shown)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()


def _rates(axes: Axes, shown: Report) -> None:
    rows = shown["configurations"]
    values = [row["tokens_per_second"] for row in rows.values()]
    colors = [_COLORS.get(CONFIGURATIONS[key].side, _OTHERS) for key in rows]
    axes.barh(range(len(rows)), [value["median"] for value in values], color=colors, height=0.7)
    _intervals(axes, values)
    for place, value in enumerate(values):
        axes.annotate(
            f"{value['median']:,.0f}",
            (value["ci95"][1], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    load, base = shown["load"], shown["base"]
    axes.set_title(
        f"{base['parameters'] / 1e6:.0f}M parameters, {base['dtype']}; {load['concurrency']} requests at once, "
        f"{load['prompt_tokens']} tokens in, {load['answer_tokens']} out",
        fontsize=10,
    )
    _finish(axes, [row["label"] for row in rows.values()], f"output tokens a second {_said(shown)}")


def _ratios(axes: Axes, shown: Report) -> None:
    rows = shown["ratios"]
    values = list(rows.values())
    axes.plot([value["median"] for value in values], range(len(rows)), "o", color="black", markersize=4)
    _intervals(axes, values)
    labelled = False
    for place, value in enumerate(values):
        if value["bar"] is not None:
            label = None if labelled else "the bar"
            axes.plot([value["bar"]] * 2, [place - 0.35, place + 0.35], color="#c0392b", linewidth=2, label=label)
            labelled = True
        axes.annotate(
            f"{value['median']:.2f}",
            (max(value["ci95"][1], value["bar"] or 0), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.legend(loc="lower right", fontsize=8)
    _finish(
        axes,
        list(rows),
        f"ratio of tokens a second, paired within {shown['rounds']} rounds {_said(shown)}",
    )


def _intervals(axes: Axes, values: list[dict[str, Any]]) -> None:
    for place, value in enumerate(values):
        axes.plot(value["ci95"], [place, place], color="black", linewidth=1.2)


def _said(shown: Report) -> str:
    return f"(median, {shown['coverage']:.0%} interval)"


def _finish(axes: Axes, labels: list[str], xlabel: str) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlim(right=axes.get_xlim()[1] * 1.08)
    axes.set_xlabel(xlabel, fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
