"""Outcomes of the trainings of an experiment, or why they failed; stored as JSON, one file each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter


@dataclass(frozen=True)
class Outcome:
    """The outcome of one training.

    Attributes:
        method, task, seed: Which.
        before: Accuracy of the base on held-out prompts.
        accuracy: Afterwards.
        reward_before: Mean reward of the base.
        reward: Afterwards.
        rewards_before: Of the base on each held-out prompt, in their order; None if it was not graded.
        rewards: Afterwards.
        validation: Mean reward of the best validation, if the learner has any: settings may be chosen by it.
        n: How many held-out prompts were graded.
        parameters: How many numbers were trained.
        samples: How many were learned from.
        seconds: Of all steps, opening the base and grading held-out prompts not counted.
        held_mib: Memory that the opened base, what is trained and the engine took, above what the process had before.
        peak_mib: The most at once during the steps, above the same: what is held is part of it.
        curve: The mean reward of each step's samples, as (step, reward).
        z: The file of the z, within the experiment's storage; None for a method that has none.
        code: The version of zfleet that trained.
    """

    method: str
    task: str
    seed: int
    before: float
    accuracy: float
    reward_before: float
    reward: float
    rewards_before: tuple[float | None, ...]
    rewards: tuple[float | None, ...]
    validation: float | None
    n: int
    parameters: int
    samples: int
    seconds: float
    held_mib: float
    peak_mib: float
    curve: tuple[tuple[int, float], ...]
    z: str | None
    code: str

    def to_json(self) -> bytes:
        """Serialise as JSON."""
        return json.dumps(asdict(self), allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Outcome:
        """Read what ``to_json`` wrote.

        Raises:
            ValidationError: It is damaged.
        """
        return TypeAdapter(Outcome).validate_json(data)


@dataclass(frozen=True)
class Failure:
    """A training that failed and would fail again if retried.

    Attributes:
        method, task, seed: Which.
        reason: What went wrong.
        remedy: What to do about it.
    """

    method: str
    task: str
    seed: int
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.method} on {self.task} (seed {self.seed})"


@dataclass(frozen=True)
class Results:
    """All trainings of an experiment, in its order.

    Attributes:
        finished: What was trained, now or before.
        failed: The others.
    """

    finished: Sequence[Outcome]
    failed: Sequence[Failure]
