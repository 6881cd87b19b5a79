"""What an evaluation shows of one expert against another one, or against the base: the evidence for a gate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zfleet.config.evaluate import BASE
from zfleet.errors import SpecError
from zfleet.evaluate.about import About
from zfleet.evaluate.cells import Cell
from zfleet.evaluate.matrix import comparison
from zfleet.evaluate.replicates import replicates
from zfleet.evaluate.statistics.estimate import Estimate


@dataclass(frozen=True)
class TaskEvidence:
    """One task.

    Attributes:
        prompts: How many both answered and the task's reward graded.
        prompts_digest: Over the digests of these prompts, sorted.
        candidate, present: The share of right answers of each.
        difference: The candidate's share less the other's, paired by prompt.
        slower: The candidate's seconds of an answer over the other's; None if they are not known.
    """

    prompts: int
    prompts_digest: str
    candidate: Estimate
    present: Estimate
    difference: Estimate
    slower: float | None


@dataclass(frozen=True)
class Evidence:
    """A candidate and the present version, measured on the same prompts.

    Attributes:
        evaluation: The name of the evaluation.
        run_id: Its run in MLflow.
        code: The version of zfleet that measured.
        engine: The engine that answered.
        candidate: The digest of the candidate's z.
        present: The digest of the other z; empty for the base.
        tasks: {key of the task in the evaluation: what it shows}.
    """

    evaluation: str
    run_id: str
    code: str
    engine: str
    candidate: str
    present: str
    tasks: Mapping[str, TaskEvidence]

    def to_plain(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def evidence_of(about: About, cells: Sequence[Cell], run_id: str, candidate: str, present: str) -> Evidence:
    """Compare two z of a finished evaluation on each of its tasks.

    Args:
        about: The evaluation.
        cells: All of its answers.
        run_id: Its run in MLflow.
        candidate: The digest of the candidate's z.
        present: The digest of the other z; empty for the base.

    Raises:
        SpecError: The evaluation did not measure one of them.
        JobError: One of them has no graded prompt on a task.
    """
    first, second = _way(about, candidate), _way(about, present) if present else BASE
    tasks = {}
    for task in about.tasks:
        mine, theirs = (
            [cell for cell in cells if (cell.key.task, cell.key.way) == (task, way)] for way in (first, second)
        )
        ours, others = replicates(mine), replicates(theirs)
        compared = comparison(ours, others, second)
        if compared is None:
            continue
        rows = sorted({*ours.rows} & {*others.rows})
        tasks[task] = TaskEvidence(
            prompts=compared.n,
            prompts_digest=hashlib.sha256("\n".join(rows).encode()).hexdigest(),
            candidate=ours.on(rows).estimate(),
            present=others.on(rows).estimate(),
            difference=compared.difference,
            slower=_ratio(_seconds(mine), _seconds(theirs)),
        )
    return Evidence(about.name, run_id, about.code, about.engine, candidate, present, tasks)


def _way(about: About, digest: str) -> str:
    """Return the way of an expert, which is named by its reference."""
    for reference, known in about.experts.items():
        if known == digest:
            return reference
    raise SpecError(
        f"evaluation {about.name!r} did not measure the z {digest[:12]}; its experts are {', '.join(about.experts)}",
        "run `zfleet evaluate` with both versions among `experts`",
    )


def _seconds(cells: Sequence[Cell]) -> float:
    return float(np.concatenate([cell.seconds for cell in cells]).mean())


def _ratio(mine: float, theirs: float) -> float | None:
    return mine / theirs if theirs > 0 and math.isfinite(mine) else None
