"""What the training of one expert was started with: its identity, by which a run is resumed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zfleet.config.specs import ExpertSpec

if TYPE_CHECKING:
    from zfleet.svf.zvector import ZVector
    from zfleet.tasks.fit import FitReport


@dataclass(frozen=True)
class Start:
    """A registered version whose z an expert begins at.

    Attributes:
        reference: Name and version, such as ``exam-mix/1``.
        z: Its z.
    """

    reference: str
    z: ZVector


@dataclass(frozen=True)
class Plan:
    """One expert to train.

    Attributes:
        expert: Its part of the spec.
        fit: Its task, without prompts that do not fit.
        data: Digest of that task's samples and images.
        depends: Everything that its z depends on, by the spec's keys.
        start: Where it begins; None: at the base.
        licence: Of the base, as its files say it; empty if they do not.
    """

    expert: ExpertSpec
    fit: FitReport
    data: str
    depends: dict[str, Any]
    start: Start | None = None
    licence: str = ""

    @property
    def task_digest(self) -> str:
        """Identity of how the task asks and grades: its spec and its reward."""
        asked = {"task": self.depends["task"], "reward": self.depends["reward"]}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    @property
    def spec(self) -> str:
        """``depends`` as JSON, as the registry stores it."""
        return json.dumps(self.depends, sort_keys=True)

    @property
    def digest(self) -> str:
        """Identity of ``depends``: a plan with the same digest resumes the same run."""
        return hashlib.sha256(self.spec.encode()).hexdigest()
