r"""MATH: competition problems, whose solutions put the answer into ``\boxed{}`` (arXiv 2103.03874)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zfleet.rewards.numbers.extract import last_boxed
from zfleet.tasks.datasets.dataset import Dataset, Fields, text


def _fields(row: Mapping[str, Any]) -> Fields:
    solution = text(row, "solution")
    answer = last_boxed(solution)
    if not answer:
        raise ValueError(r"its solution has no \boxed{} answer")
    return {
        "problem": text(row, "problem"),
        "level": str(row.get("level", "")),
        "type": str(row.get("type") or row.get("subject") or ""),
        "solution": solution,
        "answer": answer,
    }


MATH = Dataset(
    "math",
    _fields,
    {"train": ("train.jsonl", "train/*/*.json"), "test": ("test.jsonl", "test/*/*.json")},
    ("EleutherAI/hendrycks_math", None),
    {"train": "train", "test": "test"},
)
