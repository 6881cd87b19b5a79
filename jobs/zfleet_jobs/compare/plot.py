"""The picture of an experiment: accuracy of every method on every task, with intervals."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from zfleet_jobs.compare.findings import Finding


def plot(found: Sequence[Finding], title: str) -> bytes:
    """A PNG: a group of bars for each task, a bar for each method, the base as a line across its group."""
    tasks, methods = (list(dict.fromkeys(getattr(one, key) for one in found)) for key in ("task", "method"))
    width = 0.8 / len(methods)
    colours = plt.get_cmap("tab20")
    figure, axes = plt.subplots(figsize=(max(7.0, 0.35 * len(found)), 4.5), layout="constrained")
    for place, method in enumerate(methods):
        mine = {one.task: one for one in found if one.method == method}
        centres = [index - 0.4 + width * (place + 0.5) for index in range(len(tasks))]
        label = f"{method} ({mine[tasks[0]].parameters:,} numbers)"
        axes.bar(centres, [mine[task].accuracy.mean for task in tasks], width, label=label, color=colours(place % 20))
        for centre, task in zip(centres, tasks, strict=True):
            known = mine[task].accuracy
            if not math.isnan(known.low):
                axes.vlines(centre, max(known.low, 0), min(known.high, 1), color="black", linewidth=1)
    for index, task in enumerate(tasks):
        base = next(one.before for one in found if one.task == task)
        axes.hlines(base, index - 0.45, index + 0.45, color="black", linestyle="--", label="" if index else "the base")
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("accuracy on held-out prompts")
    axes.set_title(f"{title}: means over seeds, 95 % intervals")
    figure.legend(loc="outside lower center", ncols=min(3, len(methods) + 1), fontsize="small", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()
