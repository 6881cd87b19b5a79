"""The ways of adapting that an evaluation measures, and the cells that each of them has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from zfleet.config.evaluate import BASE, BEST_PROMPT, BEST_SINGLE, ORACLE, UNIFORM, EvaluateSpec
from zfleet.evaluate.cells import CellKey, WayKind


@dataclass(frozen=True)
class Way:
    """A way of choosing the z of each prompt.

    Attributes:
        name: In tables.
        kind: How it chooses.
        few_shot: Whether it sees shots.
        searched: Whether it depends on a seed even where answers are greedy.
    """

    name: str
    kind: WayKind
    few_shot: bool = False
    searched: bool = False


def ways_of(spec: EvaluateSpec, experts: Sequence[str]) -> list[Way]:
    """List the ways in the order of the table, without LoRA, whose cells an experiment has.

    Args:
        spec: The evaluation.
        experts: Names of the experts' ways.
    """
    return [
        Way(BASE, "base"),
        *([Way(BEST_PROMPT, "prompt")] if spec.prompts else []),
        *(Way(name, "expert") for name in experts),
        Way(UNIFORM, "uniform"),
        Way(BEST_SINGLE, "best-single", few_shot=True),
        *(Way(name, "search", few_shot=True, searched=True) for name in spec.searches),
        *(Way(name, "dispatcher") for name in spec.dispatchers),
        Way(ORACLE, "oracle"),
    ]


def keys_of(spec: EvaluateSpec, way: Way, task: str) -> list[CellKey]:
    """List the cells of a way on a task."""
    shots: Sequence[int | None] = spec.shots if way.few_shot else (None,)
    draws: Sequence[int | None] = spec.draws if way.few_shot else (None,)
    seeds: Sequence[int | None] = spec.seeds if way.searched or spec.temperature else (None,)
    return [CellKey(task, way.name, *rest) for rest in product(shots, draws, seeds)]


def sizes_of(spec: EvaluateSpec, tests: Mapping[str, int]) -> dict[str, int]:
    """Count what an evaluation computes, before anything is known of its experts.

    Args:
        spec: The evaluation.
        tests: {task: held-out prompts}.

    Returns:
        Cells; the answers that they have together; and the most that are computed, because the best single expert and
        the oracle take theirs from the experts, as dispatchers do that choose one expert for each prompt.
    """
    shared = ("best-single", "oracle", "dispatcher")
    ways = ways_of(spec, spec.experts)
    cells = [(way, key) for task in spec.tasks for way in ways for key in keys_of(spec, way, task)]
    return {
        "cells": len(cells),
        "answers": sum(tests[key.task] for _, key in cells),
        "computed": sum(tests[key.task] for way, key in cells if way.kind not in shared),
        "first passes": sum(tests[key.task] for way, key in cells if way.kind == "dispatcher"),
    }
