"""Cells that are made up, for tests of what is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from zfleet.evaluate.cells import Cell, CellKey, Mixture, WayKind

MakeCell = Callable[..., Cell]


@pytest.fixture(scope="session")
def make_cell() -> MakeCell:
    """``make_cell("way", "1-1?")``: a cell whose prompts were answered right (1), wrong (-) or not graded (?)."""

    def make(
        way: str,
        answers: str,
        *,
        task: str = "t",
        kind: WayKind = "search",
        shots: int | None = None,
        draw: int | None = None,
        seed: int | None = None,
        clusters: Sequence[str] | None = None,
        own_task: bool | None = None,
        mixture: Mixture | None = None,
        own: Sequence[str | None] | None = None,
        named: Sequence[str | None] | None = None,
        confidences: Sequence[float] | None = None,
        cost: Mapping[str, float] | None = None,
    ) -> Cell:
        n = len(answers)
        numbers = {"tokens": 4.0, "prompt_tokens": 10.0, "seconds": 0.5, "first_tokens": 0.0, "first_seconds": 0.0}
        columns = {name: np.full(n, value) for name, value in (numbers | dict(cost or {})).items()}
        return Cell(
            key=CellKey(task, way, shots, draw, seed),
            kind=kind,
            own_task=own_task,
            rows=[f"{task}-row-{place}" for place in range(n)],
            clusters=clusters,
            rewards=np.array([{"1": 1.0, "-": -1.0, "?": np.nan}[answer] for answer in answers]),
            mixtures=[mixture or {}] * n,
            own=own or [None] * n,
            named=named or [None] * n,
            confidences=np.array(confidences if confidences is not None else [np.nan] * n),
            **columns,
        )

    return make
