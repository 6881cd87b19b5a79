"""GSM8K: word problems with one number for an answer (arXiv 2110.14168)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zfleet.rewards.numbers.extract import after_hashes, final_number
from zfleet.tasks.datasets.dataset import Dataset, Fields, text


def _fields(row: Mapping[str, Any]) -> Fields:
    solution = text(row, "answer")
    answer = after_hashes(solution)
    if answer is None or final_number(answer) is None:
        raise ValueError("its answer has no number after ####")
    return {"question": text(row, "question"), "solution": solution, "answer": answer}


GSM8K = Dataset(
    "gsm8k",
    _fields,
    {"train": ("train.jsonl", "train*.jsonl"), "test": ("test.jsonl", "test*.jsonl")},
    ("openai/gsm8k", "main"),
    {"train": "train", "test": "test"},
)
