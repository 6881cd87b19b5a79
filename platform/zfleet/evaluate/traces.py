"""Traces of the searches of an evaluation: how they converged, and every candidate that they tried."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from zfleet.evaluate.cells import CellKey


@dataclass(frozen=True)
class Generation:
    """The scores of one population on the shots.

    Attributes:
        best, mean: Of the candidates.
        answers: To shots, so far.
    """

    best: float
    mean: float
    answers: int


@dataclass(frozen=True)
class Candidate:
    """A mixture that a search tried.

    Attributes:
        alphas: Of each expert; the mean if it has several.
        value: On the shots that it answered.
        shots: How many those are.
    """

    alphas: Mapping[str, float]
    value: float
    shots: int


@dataclass(frozen=True)
class SearchTrace:
    """One search.

    Attributes:
        key: Of the cell that its mixture answered.
        value: Of that mixture on the shots that it was searched on: an optimistic number.
        answers: To shots and to prompts of the selection.
        seconds: Of all searches that ran together with it; 0 if they had finished before.
        history: Of each generation.
        candidates: All that were tried.
    """

    key: CellKey
    value: float
    answers: int
    seconds: float
    history: tuple[Generation, ...]
    candidates: tuple[Candidate, ...]

    def to_json(self) -> bytes:
        """Serialise as JSON."""
        return json.dumps(asdict(self), allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> SearchTrace:
        """Read what ``to_json`` wrote.

        Raises:
            ValidationError: It is damaged.
        """
        return TypeAdapter(SearchTrace).validate_json(data)
