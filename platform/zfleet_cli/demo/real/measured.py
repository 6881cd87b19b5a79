"""Measurements that a second run reads instead of making them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zfleet.files import write_atomic
from zfleet.rewards.grading import reward_identity
from zfleet.tasks.fit import data_digest
from zfleet.tasks.task import Task

Rewards = tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """Stores rewards under all that they depend on.

    Attributes:
        folder: Where they lie.
        factors: Digest of the factors of all experts: it stands for the base, too.
    """

    folder: Path
    factors: str

    def rewards(self, task: Task, digests: Sequence[str], measure: Callable[[], Rewards]) -> Rewards:
        """Return the rewards of a task's test prompts, from the folder if they are there.

        Args:
            task: The task.
            digests: Of the z that answers each test prompt.
            measure: Answers and grades the prompts.
        """
        state = [
            self.factors,
            data_digest(replace(task, train=())),
            [task.template.text, task.max_tokens, list(task.stop)],
            reward_identity(task.reward),
            list(digests),
        ]
        file = self.folder / f"{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:24]}.json"
        if file.is_file():
            return tuple(json.loads(file.read_text()))
        rewards = measure()
        write_atomic(file, json.dumps(rewards).encode())
        return rewards
