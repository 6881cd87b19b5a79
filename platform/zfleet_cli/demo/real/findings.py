"""Write the findings of the demo on a pretrained model. Every sentence is derived from the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zfleet.pages.page import Findings, Report

Row = dict[str, Any]
Finding = tuple[bool, str]
"""Whether something worked, and the sentence about it."""


def findings(report: Report) -> Findings:
    """Return the sentences about what worked, and about what did not."""
    worked: list[str] = []
    failed: list[str] = []
    for section in (_experts, _against_lora, _classifier, _dispatch, _mixing):
        for holds, sentence in section(report):
            (worked if holds else failed).append(sentence)
    return worked, failed


def _experts(report: Report) -> Iterator[Finding]:
    for task, row in report["tasks"].items():
        svf = row["svf"]
        gains = svf["gain"]["low"] > 0
        if gains:
            verdict = ""
        elif svf["gain"]["high"] < 0:
            verdict = " The expert is worse than the base."
        else:
            verdict = " No gain is shown: the interval includes 0."
        yield (
            gains,
            f"{_words(task)}: the expert answers {_rate(svf['accuracy'])} of {row['n']} held-out prompts, the base "
            f"{_rate(row['base'])}: {_change(svf['gain'])}. {svf['parameters']:,} numbers were trained in "
            f"{_minutes(svf['seconds'])}.{verdict}",
        )


def _against_lora(report: Report) -> Iterator[Finding]:
    for task, row in report["tasks"].items():
        svf, lora, difference = row["svf"], row["lora"], row["svf_minus_lora"]
        if difference["low"] > 0:
            verdict = "SVF is better."
        elif difference["high"] < 0:
            verdict = "LoRA is better."
        else:
            verdict = "No difference is shown."
        yield (
            difference["high"] >= 0,
            f"{_words(task)}, LoRA with the same prompts, rewards, samples and steps: {_rate(lora['accuracy'])} with "
            f"{lora['parameters'] / svf['parameters']:.0f} times the numbers; SVF less LoRA {_change(difference)}. "
            f"{verdict}",
        )


def _classifier(report: Report) -> Iterator[Finding]:
    row = report["classifier"]
    yield (
        row["gain"]["low"] > 0,
        f"The classifier names the kind of {_rate(row['classifier'])} of {row['n']} held-out prompts, the base of "
        f"{_rate(row['base'])}: {_change(row['gain'])}.",
    )


def _dispatch(report: Report) -> Iterator[Finding]:
    rows = report["dispatch"]
    for method, who in (("classifier", "the classifier"), ("prompt", "the base itself")):
        row = rows[method]
        yield (
            row["over_base"]["low"] > 0,
            f"Dispatch by {who}: {_rate(row['accuracy'])} of {rows['n']} prompts of the exam are right, by the "
            f"base alone {_rate(rows['base']['accuracy'])} ({_change(row['over_base'])}), by an oracle that knows the "
            f"task {_rate(rows['oracle']['accuracy'])}. {who[0].upper()}{who[1:]} chose the prompt's own expert in "
            f"{row['named_right']:.1%}.",
        )


def _mixing(report: Report) -> Iterator[Finding]:
    for exam, row in report["mixing"].items():
        for draw in row["draws"]:
            over_base, over_single = draw["over_base"], draw["over_best_single"]
            if over_single["low"] > 0:
                verdict = "It is better than the best single expert"
            elif over_single["high"] < 0:
                verdict = "It is worse than the best single expert"
            else:
                verdict = "No difference is shown to the best single expert"
            yield (
                over_base["low"] > 0 and over_single["high"] >= 0,
                f"{_words(exam)}, draw {draw['shots_seed']}: a mixture found on {report['settings']['shots']} shots "
                f"answers {_rate(draw['mixture'])}, the base {_rate(row['base'])} ({_change(over_base)}). {verdict}, "
                f"{_words(row['best_single'])}, chosen on the test prompts themselves: "
                f"{_rate(row['singles'][row['best_single']])} ({_change(over_single)}).",
            )


def _rate(row: Row) -> str:
    return f"{row['mean']:.1%}"


def _change(difference: Row) -> str:
    mean, low, high = (100 * difference[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} points, 95 % {low:+.1f} to {high:+.1f}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"


def _words(name: str) -> str:
    return name.replace("_", " ")
