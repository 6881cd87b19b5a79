"""The names of the tasks that zfleet generates itself, for any instruction model."""

from __future__ import annotations

from typing import Literal

GeneratedName = Literal[
    "words_arithmetic",
    "sorted_names",
    "order_fields",
    "reviews",
    "category_member",
    "iso_dates",
    "generated_exam",
    "generated_kind",
]

EXAM: GeneratedName = "generated_exam"
"""Prompts of several families in equal parts."""

KIND: GeneratedName = "generated_kind"
"""The classifier's task: to name the kind of request that a prompt of these families is."""

LABELS = ("arithmetic", "sorting", "extraction", "sentiment")
"""The answers of the classifier."""

KIND_QUESTION = (
    "Request: {prompt}\n\nWhat kind of request is this: "
    + ", ".join(LABELS[:-1])
    + f" or {LABELS[-1]}? Answer with one word in lower case."
)
"""The question of the first pass."""
