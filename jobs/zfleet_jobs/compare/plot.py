"""The picture of an experiment: accuracy of every method on every task, with intervals."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from zfleet_jobs.compare.findings import Finding


def plot(findings: Sequence[Finding], title: str) -> bytes:
    """Draw a PNG: a group of bars for each task, a bar for each method, the base as a line across its group."""
    tasks, methods = (list(dict.fromkeys(getattr(one, key) for one in findings)) for key in ("task", "method"))
    width = 0.8 / len(methods)
    colours = plt.get_cmap("tab20")
    figure, axes = plt.subplots(figsize=(max(7.0, 0.35 * len(findings)), 4.5), layout="constrained")
    for place, method in enumerate(methods):
        # A method whose trainings of a task all failed has no bar there.
        mine = [one for one in findings if one.method == method]
        centres = [tasks.index(one.task) - 0.4 + width * (place + 0.5) for one in mine]
        # A pattern's dollar signs are no formula.
        label = f"{method} ({mine[0].parameters:,} numbers)".replace("$", r"\$")
        axes.bar(centres, [one.accuracy.mean for one in mine], width, label=label, color=colours(place % 20))
        for centre, one in zip(centres, mine, strict=True):
            low, high = one.accuracy.low, one.accuracy.high
            if low is not None and high is not None:
                axes.vlines(centre, low, high, color="black", linewidth=1)
    for index, task in enumerate(tasks):
        base = next(one.before for one in findings if one.task == task)
        axes.hlines(base, index - 0.45, index + 0.45, color="black", linestyle="--", label="" if index else "the base")
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("accuracy on held-out prompts")
    axes.set_title(f"{title}: means over seeds, 95 % intervals over seeds and prompts")
    figure.legend(loc="outside lower center", ncols=min(3, len(methods) + 1), fontsize="small", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()
