"""Dispatchers in the report: are their confidences probabilities?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from zfleet.evaluate.cells import Cell
from zfleet.evaluate.statistics.proportions import wilson
from zfleet.evaluate.statistics.reliability import expected_calibration_error, reliability

_BINS = 10


def reliabilities(cells: Sequence[Cell]) -> dict[str, Any]:
    """Compare each dispatcher's confidence with how often it names the expert of the prompt's kind.

    Prompts are those of all tasks whose rows say their kind and of which some expert is; a prompt that the dispatcher
    does not recognise has no confidence, and is counted apart. Versions of an expert count as the same.

    Returns:
        {dispatcher: {`n`, `recognised`, `right`, `ece`, `bins`}}; those that give no confidence are left out.
    """
    grouped: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.kind == "dispatcher":
            grouped[cell.key.way].append(cell)
    found: dict[str, Any] = {}
    for way, some in grouped.items():
        judged = [
            (confidence, _name(named) == _name(own))
            for cell in some
            for own, named, confidence in zip(cell.own, cell.named, cell.confidences, strict=True)
            if own
        ]
        known = [(confidence, right) for confidence, right in judged if not np.isnan(confidence)]
        if not known:
            continue
        confidences, right = zip(*known, strict=True)
        found[way] = {
            "n": len(judged),
            "recognised": len(known),
            "right": sum(right) / len(right),
            "ece": expected_calibration_error(confidences, right, _BINS),
            "bins": [
                asdict(one) | {"ci95": wilson(one.accuracy, one.n)} for one in reliability(confidences, right, _BINS)
            ],
        }
    return found


def _name(reference: str | None) -> str:
    return (reference or "").partition("/")[0]
