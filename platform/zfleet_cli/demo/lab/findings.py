"""Write the report's findings, gains and failures alike. Every sentence is derived from the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zfleet_cli.demo.lab.plan import FEW_SHOT_CASES, SHOTS

Report = dict[str, Any]
Row = dict[str, Any]
Finding = tuple[bool, str]
"""Whether something worked, and the sentence about it."""

_GOOD, _GAIN, _MIXING_GAIN = 0.9, 0.25, 0.05


def findings(report: Report) -> tuple[list[str], list[str]]:
    """Return the sentences about what worked, and about what did not."""
    worked: list[str] = []
    failed: list[str] = []
    for section in (_skills, _controls, _classifier, _mixing, _routes, _few_shot):
        for holds, sentence in section(report):
            (worked if holds else failed).append(sentence)
    return worked, failed


def _skills(report: Report) -> Iterator[Finding]:
    for name, row in report["skills"].items():
        reaches, gains = row["expert"] >= _GOOD * row["clear_verb"], row["expert"] - row["base"] >= _GAIN
        sentence = (
            f"{name}: the expert answers {row['expert']:.1%} of {row['n']} held-out prompts, the base "
            f"{row['base']:.1%}; asked with the clear verb the base answers {row['clear_verb']:.1%}. "
            f"{row['trained_parameters']:,} numbers were trained."
        )
        if not reaches:
            sentence += f" That is less than {_GOOD:.0%} of what the clear verb shows."
        if not gains:
            sentence += f" The gain should be {_points(_GAIN)} or more, and is {_points(row['expert'] - row['base'])}."
        yield reaches and gains, sentence


def _controls(report: Report) -> Iterator[Finding]:
    weak, random = report["controls"]["weak_skill"], report["controls"]["random_reward"]
    gained, good = weak["ci95"][0] > weak["base_ci95"][1], weak["accuracy"] >= _GOOD
    if gained and good:
        verdict = "So there was more to elicit than it seemed."
    elif gained:
        verdict = f"A gain, but {1 - weak['accuracy']:.1%} stay wrong: SVF elicits, it does not teach."
    else:
        verdict = "No more than chance explains: SVF elicits, it does not teach."
    yield (
        gained and good,
        f"{weak['task']}, chosen as a skill that the base hardly holds ({weak['clear_verb']:.1%} even with the clear "
        f"verb): training moved it from {weak['base']:.1%} to {weak['accuracy']:.1%}. {verdict}",
    )
    yield (
        False,
        f"Random rewards moved {random['task']} from {random['base']:.1%} to {random['accuracy']:.1%}: "
        + (
            "no gain, as it must be."
            if random["accuracy"] <= random["base_ci95"][1]
            else "more than chance explains, which is a warning about the other gains."
        ),
    )


def _classifier(report: Report) -> Iterator[Finding]:
    row = report["classifier"]
    yield (
        row["label_accuracy"] >= _GOOD,
        f"The classifier names the kind of {row['label_accuracy']:.1%} of {row['n']} held-out prompts of the "
        f"skills it was trained on; the base names {row['base_label_accuracy']:.1%}.",
    )
    for family, unseen in row["unseen"].items():
        yield (
            unseen["accuracy"] >= _GOOD,
            f"For {_words(family)}, a kind that it never saw, the classifier names {unseen['accuracy']:.1%} right.",
        )


def _mixing(report: Report) -> Iterator[Finding]:
    for exam, row in report["mixing"].items():
        mean, draws = row["mean"], row["draws"]
        gain = mean["cem"] - mean["best_single"]
        yield (
            gain >= _MIXING_GAIN,
            f"{_words(exam)}: mixtures found on {SHOTS} shots answer {mean['cem']:.1%} on average over "
            f"{len(draws)} draws ({', '.join(format(draw['cem'], '.1%') for draw in draws)}); the best single expert, "
            f"chosen on the test prompts themselves, {mean['best_single']:.1%}; one chosen on the shots "
            f"{mean['pick_one']:.1%}; the base {mean['base']:.1%}. Mixing is worth {_points(gain)}.",
        )
        below = [draw for draw in draws if draw["cem"] < draw["base"]]
        if below:
            yield (
                False,
                f"{_words(exam)}: in {len(below)} of {len(draws)} draws the mixture ended below the base: "
                + ", ".join(f"{draw['cem']:.1%} against {draw['base']:.1%}" for draw in below)
                + ".",
            )


def _routes(report: Report) -> Iterator[Finding]:
    rows = report["dispatch"]
    prompt, classifier, oracle, base = (rows[key] for key in ("prompt", "classifier", "oracle", "base"))
    yield (
        _above(classifier, base),
        f"On {classifier['n']:,} prompts of the trained skills in equal parts, dispatch by the classifier answers "
        f"{classifier['accuracy']:.1%}; an oracle that knows the kind {oracle['accuracy']:.1%}; the base alone "
        f"{base['accuracy']:.1%}.",
    )
    yield (
        _above(prompt, base),
        f"Dispatch by asking the base itself answers {prompt['accuracy']:.1%} of the same prompts: "
        + ("better than" if _above(prompt, base) else "worse than" if _above(base, prompt) else "no clear change from")
        + f" the base's {base['accuracy']:.1%}"
        + (", and clearly worse than the classifier." if _above(classifier, prompt) else "."),
    )


def _few_shot(report: Report) -> Iterator[Finding]:
    for case in FEW_SHOT_CASES:
        base, routed, few_shot = (
            report["dispatch"][f"{case}_{method}"] for method in ("base", "classifier", "few_shot")
        )
        helps = _above(routed, base)
        yield (
            helps,
            f"{_words(case)}, which no expert was trained on: the classifier's choice answers "
            f"{routed['accuracy']:.1%}, the base alone {base['accuracy']:.1%}."
            + ("" if helps else f" The choice {'does harm' if _above(base, routed) else 'does not help'}."),
        )
        if _above(few_shot, routed):
            verdict = "Here few-shot search is clearly the better way to adapt."
        elif _above(routed, few_shot):
            verdict = "Here the classifier is clearly the better way to adapt."
        else:
            verdict = "The two differ by no more than chance explains."
        yield (
            _above(few_shot, routed),
            f"{_words(case)}: the first draw's mixture, found on {SHOTS} shots, answers {few_shot['accuracy']:.1%}, "
            f"the classifier's choice {routed['accuracy']:.1%}. {verdict}",
        )


def _above(high: Row, low: Row) -> bool:
    """Return whether ``high`` is clearly above ``low``: their intervals do not touch."""
    return bool(high["ci95"][0] > low["ci95"][1])


def _words(name: str) -> str:
    return name.replace("_", " ")


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"
