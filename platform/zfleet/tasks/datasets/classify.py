"""Which task is this prompt? The paper's classification task (arXiv 2501.06252, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

from zfleet.tasks.datasets.arc import ARC_EASY
from zfleet.tasks.datasets.dataset import Dataset
from zfleet.tasks.datasets.gsm8k import GSM8K
from zfleet.tasks.datasets.programs import MBPP, MBPP_SANITIZED

SOURCES: Mapping[str, tuple[tuple[Dataset, str], ...]] = {
    "math": ((GSM8K, "question"),),
    "code": ((MBPP, "problem"), (MBPP_SANITIZED, "problem")),
    "reasoning": ((ARC_EASY, "question"),),
}
"""By label: the datasets it is drawn from, the first whose files are there, and the field that is the request."""
