"""The evidence that an evaluation gives about two experts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zfleet.errors import SpecError
from zfleet.evaluate.about import About
from zfleet.evaluate.cells import Cell, CellKey
from zfleet.evaluate.evidence import evidence_of

ABOUT = About(
    name="nightly",
    base="lab",
    fingerprint="f" * 64,
    engine="torch",
    experts={"math/6": "6" * 64, "math/7": "7" * 64},
    tasks=("math", "code"),
    ways=("base", "math/6", "math/7"),
    against="base",
    shots=(10,),
    draws=(0,),
    seeds=(0,),
    temperature=0.0,
    cluster_by=None,
    code="0.1.0",
    seconds={},
)


def cell(task: str, way: str, right: list[bool], seconds: float = 1.0) -> Cell:
    count = len(right)
    numbers = np.full(count, seconds)
    return Cell(
        key=CellKey(task, way),
        kind="base" if way == "base" else "expert",
        own_task=None,
        rows=[f"{task} {place}" for place in range(count)],
        clusters=None,
        rewards=np.where(right, 1.0, -1.0),
        tokens=numbers,
        prompt_tokens=numbers,
        seconds=numbers,
        first_tokens=numbers,
        first_seconds=numbers,
        mixtures=[{}] * count,
        own=[None] * count,
        named=[None] * count,
        confidences=numbers,
    )


CELLS = [
    cell("math", "base", [False] * 40),
    cell("math", "math/6", [True] * 10 + [False] * 30, seconds=2.0),
    cell("math", "math/7", [True] * 30 + [False] * 10, seconds=3.0),
    cell("code", "base", [True] * 40),
    cell("code", "math/6", [True] * 40),
    cell("code", "math/7", [True] * 38 + [False] * 2),
]


def test_two_experts_are_paired_by_prompt() -> None:
    found = evidence_of(ABOUT, CELLS, "run", "7" * 64, "6" * 64)
    math = found.tasks["math"]
    assert (math.prompts, math.candidate.mean, math.present.mean) == (40, 0.75, 0.25)
    assert math.difference.low is not None
    assert math.difference.mean == pytest.approx(0.5, abs=0.03)
    assert 0.25 < math.difference.low < math.difference.mean
    assert math.slower == 1.5
    assert found.tasks["code"].difference.mean < 0
    assert math.prompts_digest != found.tasks["code"].prompts_digest


def test_without_a_present_version_the_base_is_what_counts() -> None:
    found = evidence_of(ABOUT, CELLS, "run", "7" * 64, "")
    assert found.tasks["math"].present.mean == 0.0
    assert found.to_plain()["tasks"]["math"]["candidate"]["mean"] == 0.75


def test_unknown_seconds_are_no_number() -> None:
    cells = [replace(one, seconds=np.full(40, np.nan)) for one in CELLS]
    assert evidence_of(ABOUT, cells, "run", "7" * 64, "6" * 64).tasks["math"].slower is None


def test_an_expert_that_was_not_measured_is_named() -> None:
    with pytest.raises(SpecError, match="did not measure the z 888888888888; its experts are math/6, math/7"):
        evidence_of(ABOUT, CELLS, "run", "8" * 64, "6" * 64)
