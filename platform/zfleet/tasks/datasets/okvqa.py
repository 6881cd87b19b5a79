"""OK-VQA (arXiv 1906.00067): questions about a photograph that ask for knowledge beside it.

Rows as LXMERT (arXiv 1908.07490) writes them: each answer that people gave with its soft score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zfleet.rewards.soft import soft_scores
from zfleet.tasks.datasets.dataset import Dataset, Fields, text


def okvqa_fields(row: Mapping[str, Any]) -> Fields:
    """Of a row of ``train.json`` or ``val.json``."""
    answer = json.dumps(row["label"])
    soft_scores(answer)
    return {"question": text(row, "sent"), "answer": answer, "image": text(row, "img_id")}


OKVQA = Dataset("okvqa", okvqa_fields, {"train": ("train*.json",), "test": ("val*.json", "test*.json")}, image="image")
