"""ARC (arXiv 1803.05457), science questions with labelled choices, and OK-VQA (arXiv 1906.00067), about photographs.

Rows of OK-VQA have the form of LXMERT (arXiv 1908.07490): each answer that people gave, with its soft score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from zfleet.rewards.soft import soft_scores
from zfleet.tasks.datasets.dataset import Dataset, Fields, text


def _arc_fields(row: Mapping[str, Any]) -> Fields:
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
        "choices": "\n".join(f"{label}. {choice}" for label, choice in choices),
        "labels": ", ".join(labels),
        "answer": answer,
    }


def _choices(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield label and text of each choice. Allen AI's files have a list of objects, the hub an object of two lists."""
    question = row["question"]
    choices = question["choices"] if isinstance(question, dict) else row["choices"]
    if isinstance(choices, dict):
        choices = [
            {"label": label, "text": choice} for label, choice in zip(choices["label"], choices["text"], strict=True)
        ]
    for choice in choices:
        yield text(choice, "label").strip(), text(choice, "text").strip()


def _arc(name: str, form: str) -> Dataset:
    return Dataset(
        name,
        _arc_fields,
        {"train": (f"ARC-{form}-Train.jsonl",), "test": (f"ARC-{form}-Test.jsonl", f"ARC-{form}-Dev.jsonl")},
        ("allenai/ai2_arc", f"ARC-{form}"),
        {"train": "train", "test": "test"},
    )


def _okvqa_fields(row: Mapping[str, Any]) -> Fields:
    """Read a row of ``train.json`` or ``val.json``."""
    answer = json.dumps(row["label"])
    soft_scores(answer)
    return {"question": text(row, "sent"), "answer": answer, "image": text(row, "img_id")}


ARC_EASY = _arc("arc_easy", "Easy")
ARC_CHALLENGE = _arc("arc_challenge", "Challenge")
OKVQA = Dataset("okvqa", _okvqa_fields, {"train": ("train*.json",), "test": ("val*.json", "test*.json")}, image="image")
