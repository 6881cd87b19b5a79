"""ARC: science questions with three to five choices, labelled by letters or digits (arXiv 1803.05457)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zfleet.tasks.datasets.dataset import Dataset, Fields, text


def _fields(row: Mapping[str, Any]) -> Fields:
    question = row["question"]
    choices = list(_choices(row))
    answer = text(row, "answerKey").strip()
    labels = [label for label, _ in choices]
    if not 2 <= len(choices) == len(set(labels)):
        raise ValueError(f"its choices are labelled {labels}")
    if answer not in labels:
        raise ValueError(f"answerKey is {answer!r}, its choices are {', '.join(labels)}")
    return {
        "id": str(row["id"]),
        "question": text(question, "stem") if isinstance(question, dict) else text(row, "question"),
        "choices": "\n".join(f"{label}. {said}" for label, said in choices),
        "labels": ", ".join(labels),
        "answer": answer,
    }


def _choices(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """As Allen AI's files have them, or as the hub does: a list of objects, or an object of two lists."""
    question = row["question"]
    choices = question["choices"] if isinstance(question, dict) else row["choices"]
    if isinstance(choices, dict):
        choices = [
            {"label": label, "text": said} for label, said in zip(choices["label"], choices["text"], strict=True)
        ]
    for choice in choices:
        yield text(choice, "label").strip(), text(choice, "text").strip()


def _arc(name: str, form: str) -> Dataset:
    return Dataset(
        name,
        _fields,
        {"train": (f"ARC-{form}-Train.jsonl",), "test": (f"ARC-{form}-Test.jsonl", f"ARC-{form}-Dev.jsonl")},
        ("allenai/ai2_arc", f"ARC-{form}"),
        {"train": "train", "test": "test"},
    )


ARC_EASY = _arc("arc_easy", "Easy")
ARC_CHALLENGE = _arc("arc_challenge", "Challenge")
