"""A ratio of two ways divides what ran in one round, and neither way always goes first."""

from __future__ import annotations

from learning.turns import Pair, Seconds, take_turns


def test_each_round_runs_both_and_who_goes_first_alternates() -> None:
    ran: list[str] = []
    rounds: list[int] = []
    pair = take_turns(lambda: ran.append("o"), lambda: ran.append("r"), 4, lambda: rounds.append(len(ran)))
    assert "".join(ran) in ("orroorro", "roorroor")
    assert rounds == [2, 4, 6, 8]
    assert len(pair.ours) == len(pair.other) == 4


def test_a_ratio_says_how_many_times_as_long_the_other_takes() -> None:
    ours = tuple(Seconds(float(n), 1.0) for n in range(1, 7))
    other = tuple(Seconds(2.0 * n, 5.0) for n in range(1, 7))
    ratio = Pair(ours, other).ratio()
    assert (ratio["median"], ratio["ci95"], ratio["pairs"]) == (2.0, [2.0, 2.0], 6)
    assert ratio["coverage"] >= 0.95
    assert ratio["cpu"]["median"] == 5.0
    assert Pair(ours, other).seconds()["ours"] == {"wall": 3.5, "cpu": 1.0}
