"""What a run of an evaluation was: what its tables and its report say beside its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter


@dataclass(frozen=True)
class About:
    """A run.

    Attributes:
        name: Of the evaluation.
        base: Name of the base.
        fingerprint: Of the base.
        engine: Kind of the engine.
        experts: {reference: digest of its z}.
        tasks, ways: In the order of the spec.
        against: The way that all are compared with, beside the base.
        shots, draws, seeds: As in the spec.
        temperature: Of the answers; 0 is greedy.
        cluster_by: What prompts share that are not independent; None if all are.
        code: The version of zfleet that made the newest answers.
        seconds: Of the stages of the newest call.
    """

    name: str
    base: str
    fingerprint: str
    engine: str
    experts: Mapping[str, str]
    tasks: tuple[str, ...]
    ways: tuple[str, ...]
    against: str
    shots: tuple[int, ...]
    draws: tuple[int, ...]
    seeds: tuple[int, ...]
    temperature: float
    cluster_by: str | None
    code: str
    seconds: Mapping[str, float]

    def to_json(self) -> bytes:
        """Serialise as JSON."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> About:
        """Read what ``to_json`` wrote.

        Raises:
            ValidationError: It is damaged.
        """
        return TypeAdapter(About).validate_json(data)
