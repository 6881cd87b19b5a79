"""The matrix, by hand: what is compared with what, over which prompts, and what is corrected for how many."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from zfleet.errors import JobError
from zfleet.evaluate.cells import Cell
from zfleet.evaluate.matrix import Entry, Matrix, comparison, matrix_of
from zfleet.evaluate.replicates import Flip, flips, replicates
from zfleet.evaluate.statistics import crossed
from zfleet.evaluate.statistics.comparisons import holm
from zfleet.evaluate.statistics.proportions import wilson
from zfleet.evaluate.statistics.single import mean_of, paired, proportion

MakeCell = Callable[..., Cell]
BASE = "1111----------------"
EXPERT = "111111111111111111--"


def entry(matrix: Matrix, way: str, task: str = "t", shots: int | None = None) -> Entry:
    (found,) = (one for one in matrix.entries if (one.task, one.way, one.shots) == (task, way, shots))
    return found


def bits(answers: str) -> list[bool]:
    return [answer == "1" for answer in answers]


def test_a_way_measured_once_has_the_intervals_of_its_prompts(make_cell: MakeCell) -> None:
    matrix = matrix_of([make_cell("base", BASE, kind="base"), make_cell("reverse/1", EXPERT, kind="expert")])
    base, expert = entry(matrix, "base"), entry(matrix, "reverse/1")
    assert (base.n, base.replicates, base.over_base, base.regret) == (20, 1, None, None)
    assert (base.accuracy.low, base.accuracy.high) == pytest.approx(wilson(0.2, 20))
    assert base.reward == mean_of([1.0] * 4 + [-1.0] * 16)
    assert expert.over_base is not None
    assert expert.over_base.difference == paired(bits(EXPERT), bits(BASE))
    assert (expert.over_base.n, expert.over_base.verdict) == (20, "better")
    assert expert.over_base.detectable is not None
    assert 0.2 < expert.over_base.detectable < 0.5


def test_draws_are_replicates_and_seeds_of_a_draw_their_mean(make_cell: MakeCell) -> None:
    cells = [make_cell("base", BASE, kind="base")]
    answers = {(0, 0): "1" * 18 + "--", (0, 1): "1" * 16 + "----", (1, 0): "1" * 20, (1, 1): "1" * 20}
    cells += [make_cell("cem", said, shots=10, draw=draw, seed=seed) for (draw, seed), said in answers.items()]
    found = entry(matrix_of(cells), "cem", shots=10)
    values = np.array([[1.0] * 16 + [0.5] * 2 + [0.0] * 2, [1.0] * 20])
    assert (found.replicates, found.n) == (2, 20)
    assert found.accuracy == crossed.accuracy(values)
    assert found.over_base is not None
    assert found.over_base.difference == crossed.difference(values - np.array(bits(BASE), dtype=float))


def test_seeds_of_one_draw_are_replicates(make_cell: MakeCell) -> None:
    cells = [make_cell("cem", "11--", shots=10, draw=0, seed=seed) for seed in range(3)]
    assert entry(matrix_of(cells), "cem", shots=10).replicates == 3


def test_ways_with_the_same_draws_are_compared_draw_by_draw(make_cell: MakeCell) -> None:
    """One draw lifts both: the difference between the ways is the same in both draws, and its interval is narrow."""
    cells = [make_cell("base", BASE, kind="base")]
    for draw, right in ((0, 8), (1, 16), (2, 12)):
        cells.append(make_cell("cem", "1" * (right + 2) + "-" * (18 - right), shots=10, draw=draw, seed=0))
        cells.append(
            make_cell("best-single", "1" * right + "-" * (20 - right), shots=10, draw=draw, kind="best-single")
        )
    found = entry(matrix_of(cells, "best-single"), "cem", shots=10)
    assert found.over_named is not None
    assert found.over_named.against == "best-single"
    assert found.over_named.difference.mean == pytest.approx(0.1)
    assert found.over_base is not None
    assert found.over_named.difference.low is not None
    assert found.over_base.difference.low is not None
    assert found.over_named.difference.low > found.over_base.difference.low
    assert entry(matrix_of(cells, "best-single"), "best-single", shots=10).over_named is None


def test_passages_widen_every_interval(make_cell: MakeCell) -> None:
    passages = [f"passage-{place // 4}" for place in range(20)]
    cells = [make_cell("base", BASE, kind="base", clusters=passages), make_cell("x", EXPERT, clusters=passages)]
    found = entry(matrix_of(cells), "x")
    assert found.accuracy == proportion(bits(EXPERT), passages)
    assert found.over_base is not None
    assert found.over_base.difference == paired(bits(EXPERT), bits(BASE), passages)


def test_prompts_without_a_grade_are_left_out_of_both(make_cell: MakeCell) -> None:
    cells = [make_cell("base", "?1--", kind="base"), make_cell("x", "111?")]
    found = entry(matrix_of(cells), "x")
    assert (found.n, found.accuracy.mean) == (3, 1.0)
    assert found.over_base is not None
    assert (found.over_base.n, found.over_base.difference.mean) == (2, 0.5)
    apart = matrix_of([make_cell("base", "??1-", kind="base"), make_cell("x", "11??")])
    assert entry(apart, "x").over_base is None


def test_a_way_without_any_grade_is_an_error(make_cell: MakeCell) -> None:
    with pytest.raises(JobError, match="no prompt was graded in every cell of x on t") as caught:
        matrix_of([make_cell("base", "11", kind="base"), make_cell("x", "??")])
    assert caught.value.remedy


def test_verdicts_are_corrected_for_all_comparisons_with_the_base(make_cell: MakeCell) -> None:
    cells = [make_cell("base", "-" * 20, kind="base")]
    cells += [make_cell(f"way-{place}", "1" * 5 + "-" * 15, task="t") for place in range(9)]
    matrix = matrix_of(cells)
    alone = comparison(replicates(cells[1:2]), replicates(cells[:1]), "base")
    assert alone is not None
    assert (alone.verdict, alone.corrected) == ("better", alone.p)
    compared = [entry(matrix, f"way-{place}").over_base for place in range(9)]
    assert {one.verdict for one in compared if one is not None} == {"not shown"}
    assert [one.corrected for one in compared if one is not None] == holm([alone.p] * 9)


def test_the_oracle_is_a_bound_and_no_comparison(make_cell: MakeCell) -> None:
    cells = [
        make_cell("base", "1---", kind="base"),
        make_cell("x", "11--"),
        make_cell("oracle", "111-", kind="oracle"),
    ]
    matrix = matrix_of(cells)
    assert entry(matrix, "oracle").over_base is None
    assert entry(matrix, "oracle").regret is None
    regret = entry(matrix, "x").regret
    assert regret is not None
    assert regret == paired(bits("111-"), bits("11--"))
    base_regret = entry(matrix, "base").regret
    assert base_regret is not None
    assert base_regret.mean == 0.5


def test_damage_is_the_mean_difference_on_other_tasks(make_cell: MakeCell) -> None:
    cells = [
        *(make_cell("base", "11111-----", task=task, kind="base") for task in ("a", "b", "c")),
        make_cell("a/1", "1111111111", task="a", kind="expert", own_task=True),
        make_cell("a/1", "1111------", task="b", kind="expert", own_task=False),
        make_cell("a/1", "11--------", task="c", kind="expert", own_task=False),
        make_cell("unknown/1", "11--------", task="b", kind="expert"),
    ]
    matrix = matrix_of(cells)
    found = [entry(matrix, "a/1", task).off_task for task in ("a", "b", "c")]
    assert found[0] is not None
    assert found[0] == found[1] == found[2]
    assert found[0].mean == pytest.approx(-0.2)
    halves = [paired(bits(said), bits("11111-----")) for said in ("1111------", "11--------")]
    assert found[0].low == pytest.approx(-0.2 - math.hypot(*(one.mean - (one.low or 0) for one in halves)) / 2)
    assert entry(matrix, "unknown/1", "b").off_task is None
    assert entry(matrix, "base", "a").off_task is None


def test_costs_are_of_an_answer_and_the_first_pass_has_its_share(make_cell: MakeCell) -> None:
    cost = {"first_seconds": 0.25, "first_tokens": 12.0, "seconds": 0.75}
    found = entry(matrix_of([make_cell("router", "11", kind="dispatcher", cost=cost)]), "router").cost
    assert found is not None
    assert (found.seconds, found.tokens, found.prompt_tokens, found.first_share) == (1.0, 4.0, 22.0, 0.25)
    unknown = entry(matrix_of([make_cell("lora", "11", kind="lora", cost={"seconds": np.nan})]), "lora")
    assert unknown.cost is None


def test_more_shots_are_entries_of_their_own_and_the_most_stand_in_the_table(make_cell: MakeCell) -> None:
    cells = [make_cell("base", "1-", kind="base")]
    cells += [make_cell("cem", "11", shots=shots, draw=0, seed=0) for shots in (3, 10, 5)]
    matrix = matrix_of(cells)
    assert [one.shots for one in matrix.entries] == [None, 3, 10, 5]
    assert [(one.way, one.shots) for one in matrix.of_task("t")] == [("base", None), ("cem", 10)]
    assert matrix.tasks == ["t"]


def test_flips_are_the_prompts_that_two_ways_answer_differently(make_cell: MakeCell) -> None:
    first = replicates([make_cell("a", "11-1-", draw=draw) for draw in (0, 1)])
    second = replicates([make_cell("b", "1-1-?", draw=0), make_cell("b", "1-11?", draw=1)])
    assert flips(first, second) == [Flip("t-row-1", 1.0, 0.0), Flip("t-row-2", 0.0, 1.0), Flip("t-row-3", 1.0, 0.5)]
    assert [one.gained for one in flips(first, second)] == [True, False, True]
    assert flips(first, first) == []
