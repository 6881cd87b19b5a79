"""The names of the tasks that zfleet generates itself, for any instruction model."""

from __future__ import annotations

from typing import Literal

GeneratedName = Literal[
    "reviews",
    "categories",
    "order_fields",
    "residences",
    "memberships",
    "generated_exam",
    "generated_kind",
]

EXAM: GeneratedName = "generated_exam"
"""Prompts of several families in equal parts."""

KIND: GeneratedName = "generated_kind"
"""The classifier's task: to name the kind of request that a prompt of these families is."""

LABELS = ("review", "category", "order", "home")
"""The answers of the classifier."""

KIND_QUESTION = "{prompt}\n\nIs this question about a review, a category, an order or a home?"
"""The question of the first pass."""
