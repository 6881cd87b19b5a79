"""What an evaluation shows, in sentences; every one is derived from the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zfleet.config.evaluate import BASE, ORACLE
from zfleet.pages.page import Findings, Report

Row = dict[str, Any]
Finding = tuple[bool, str]
"""Whether it is good news, and the sentence."""


def findings(report: Report) -> Findings:
    """Return the sentences about what is shown to help, and about what is not or does harm."""
    good: list[str] = []
    bad: list[str] = []
    for task, rows in report["rows"].items():
        for section in (_best, _worse, _named):
            for holds, sentence in section(report, task, rows):
                (good if holds else bad).append(sentence)
    for holds, sentence in _damage(report):
        (good if holds else bad).append(sentence)
    return good, bad


def _best(report: Report, task: str, rows: list[Row]) -> Iterator[Finding]:
    ways = [row for row in rows if row["over_base"] is not None]
    shown = [row for row in ways if row["over_base"]["verdict"] == "better"]
    base = next(row for row in rows if row["way"] == BASE)
    if not shown:
        detectable = report["detectable"][task]
        could = (
            ""
            if detectable is None
            else f"; a difference of {100 * detectable:.1f} points would be, four times in five"
        )
        yield False, f"{task}: no way is shown to be better than the base, which answers {_rate(base)}{could}."
        return
    best = max(shown, key=lambda row: row["accuracy"]["mean"])
    change = _change(best["over_base"]["difference"])
    sentence = f"{task}: {_way(best)} answers {_rate(best)}, the base {_rate(base)}: {change}"
    others = len(shown) - 1
    also = f"; {others} other{'s are' if others > 1 else ' is'} shown to be better than the base, too" if others else ""
    yield True, f"{sentence}{also}.{_regret(best)}"


def _worse(report: Report, task: str, rows: list[Row]) -> Iterator[Finding]:
    worse = [row for row in rows if row["over_base"] is not None and row["over_base"]["verdict"] == "worse"]
    if worse:
        named = ", ".join(f"{_way(row)} ({_points(row['over_base']['difference'])})" for row in worse)
        yield False, f"{task}: shown to be worse than the base: {named}."


def _named(report: Report, task: str, rows: list[Row]) -> Iterator[Finding]:
    against = report["about"]["against"]
    for verdict, good in (("better", True), ("worse", False)):
        found = [
            row
            for row in rows
            if row["over_named"] is not None
            and row["way"] != BASE
            and row["over_named"]["verdict"] == verdict
            and row["kind"] in ("search", "dispatcher", "lora", "uniform", "prompt")
        ]
        if found:
            named = ", ".join(f"{_way(row)} ({_points(row['over_named']['difference'])})" for row in found)
            yield good, f"{task}: shown to be {verdict} than {against}: {named}."


def _damage(report: Report) -> Iterator[Finding]:
    experts = {row["way"]: row for rows in report["rows"].values() for row in rows if row["off_task"] is not None}
    for way, row in experts.items():
        off = row["off_task"]
        if off["high"] is not None and off["high"] < 0:
            yield False, f"{way} does harm on tasks that it was not trained on: {_change(off)} on average."


def _regret(row: Row) -> str:
    regret = row["regret"]
    if regret is None:
        return ""
    return f" An {ORACLE} has {100 * regret['mean']:.1f} points more." if regret["mean"] > 0 else ""


def _way(row: Row) -> str:
    return row["way"] if row["shots"] is None else f"{row['way']} ({row['shots']} shots)"


def _rate(row: Row) -> str:
    return f"{row['accuracy']['mean']:.1%}"


def _points(difference: Row) -> str:
    return f"{100 * difference['mean']:+.1f}"


def _change(difference: Row) -> str:
    if difference["low"] is None:
        return f"{_points(difference)} points"
    return f"{_points(difference)} points, 95 % {100 * difference['low']:+.1f} to {100 * difference['high']:+.1f}"
