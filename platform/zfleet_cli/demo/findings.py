"""The report in words: what was gained, and as plainly what was not. Every sentence follows from the numbers."""

from __future__ import annotations

from typing import Any

from zfleet_cli.demo.plan import FEW_SHOT_CASES

Report = dict[str, Any]


def findings(report: Report) -> tuple[list[str], list[str]]:
    """What worked, and what did not."""
    worked: list[str] = []
    failed: list[str] = []
    for section in (_skills, _controls, _classifier, _mixing, _routes):
        for holds, sentence in section(report):
            (worked if holds else failed).append(sentence)
    return worked, failed


def _skills(report: Report) -> list[tuple[bool, str]]:
    sentences = []
    for name, row in report["skills"].items():
        ratio = row["expert"] / row["clear_verb"]
        sentences.append(
            (
                ratio >= 0.9 and row["expert"] - row["base"] >= 0.25,
                f"{name}: the expert answers {row['expert']:.1%} of {row['n']} held-out prompts, the base "
                f"{row['base']:.1%}; asked with the clear verb the base answers {row['clear_verb']:.1%}. "
                f"{row['trained_parameters']:,} numbers were trained.",
            )
        )
    return sentences


def _controls(report: Report) -> list[tuple[bool, str]]:
    weak, random = report["controls"]["weak_skill"], report["controls"]["random_reward"]
    gained = weak["ci95"][0] > weak["base_ci95"][1]
    return [
        (
            gained and weak["accuracy"] >= 0.9,
            f"{weak['task']} is a skill that the base hardly holds ({weak['clear_verb']:.1%} even with the "
            f"clear verb): training moved it from {weak['base']:.1%} to "
            f"{weak['accuracy']:.1%}. SVF elicits, it does not teach.",
        ),
        (
            False,
            f"Rewards thrown by a coin moved {random['task']} from {random['base']:.1%} to {random['accuracy']:.1%}: "
            + (
                "no gain, as it must be."
                if random["accuracy"] <= random["base_ci95"][1]
                else "more than chance explains, which is a warning about the other gains."
            ),
        ),
    ]


def _classifier(report: Report) -> list[tuple[bool, str]]:
    row = report["classifier"]
    sentences = [
        (
            row["label_accuracy"] >= 0.9,
            f"The classifier names the kind of {row['label_accuracy']:.1%} of {row['n']} held-out prompts of the "
            f"skills it was trained on; the base names {row['base_label_accuracy']:.1%}.",
        )
    ]
    for family, unseen in row["unseen"].items():
        sentences.append(
            (
                unseen["accuracy"] >= 0.9,
                f"Of {family.replace('_', ' ')}, a kind it never saw, the classifier names "
                f"{unseen['accuracy']:.1%} right.",
            )
        )
    return sentences


def _mixing(report: Report) -> list[tuple[bool, str]]:
    sentences = []
    for exam, row in report["mixing"].items():
        mean = row["mean"]
        draws = ", ".join(f"{draw['cem']:.1%}" for draw in row["draws"])
        below = [draw for draw in row["draws"] if draw["cem"] < draw["base"]]
        sentence = (
            f"{exam.replace('_', ' ')}: mixtures found on ten shots answer {mean['cem']:.1%} on average over "
            f"{len(row['draws'])} draws ({draws}); the best single expert, chosen on the test prompts themselves, "
            f"{mean['best_single']:.1%}; one chosen on the shots {mean['pick_one']:.1%}; the base {mean['base']:.1%}."
        )
        if below:
            sentence += f" In {len(below)} of {len(row['draws'])} draws the mixture ended below the base."
        sentences.append((mean["cem"] - mean["best_single"] >= 0.05, sentence))
    return sentences


def _routes(report: Report) -> list[tuple[bool, str]]:
    rows = report["dispatch"]
    prompt, classifier, oracle, base = (rows[key] for key in ("prompt", "classifier", "oracle", "base"))
    return [
        (
            classifier["ci95"][0] > base["ci95"][1],
            f"On {classifier['n']} prompts of four skills in equal parts, dispatch by the classifier answers "
            f"{classifier['accuracy']:.1%}, by asking the base {prompt['accuracy']:.1%}, by an oracle that knows "
            f"the kind {oracle['accuracy']:.1%}; the base alone {base['accuracy']:.1%}.",
        ),
        *(_few_shot(report, case) for case in FEW_SHOT_CASES),
    ]


def _few_shot(report: Report, case: str) -> tuple[bool, str]:
    routed, few_shot = report["dispatch"][f"{case}_classifier"], report["dispatch"][f"{case}_few_shot"]
    if few_shot["ci95"][0] > routed["ci95"][1]:
        verdict = "Here few-shot search is clearly the better way to adapt."
    elif routed["ci95"][0] > few_shot["ci95"][1]:
        verdict = "Here the classifier is clearly the better way to adapt."
    else:
        verdict = "The two differ by no more than chance explains."
    sentence = (
        f"{case.replace('_', ' ').capitalize()}, which no expert was trained on: the classifier's choice answers "
        f"{routed['accuracy']:.1%}, a mixture found on ten shots {few_shot['accuracy']:.1%}. {verdict}"
    )
    return routed["accuracy"] >= 0.9, sentence
