r"""GSM8K (arXiv 2110.14168), word problems with one number as the answer, and MATH (arXiv 2103.03874).

MATH has competition problems, whose solutions put the answer into ``\boxed{}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zfleet.rewards.numbers.extract import after_hashes, final_number, last_boxed
from zfleet.tasks.datasets.dataset import Dataset, Fields, text


def _gsm8k_fields(row: Mapping[str, Any]) -> Fields:
    solution = text(row, "answer")
    answer = after_hashes(solution)
    if answer is None or final_number(answer) is None:
        raise ValueError("its answer has no number after ####")
    return {"question": text(row, "question"), "solution": solution, "answer": answer}


def _math_fields(row: Mapping[str, Any]) -> Fields:
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


GSM8K = Dataset(
    "gsm8k",
    _gsm8k_fields,
    {"train": ("train.jsonl", "train*.jsonl"), "test": ("test.jsonl", "test*.jsonl")},
    ("openai/gsm8k", "main"),
    {"train": "train", "test": "test"},
)
MATH = Dataset(
    "math",
    _math_fields,
    {"train": ("train.jsonl", "train/*/*.json"), "test": ("test.jsonl", "test/*/*.json")},
    ("EleutherAI/hendrycks_math", None),
    {"train": "train", "test": "test"},
)
