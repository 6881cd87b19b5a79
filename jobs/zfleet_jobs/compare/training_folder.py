"""The folder of one training of an experiment: how far it is, what it goes on from, and its z."""

from __future__ import annotations

import json
from dataclasses import dataclass

from zfleet.rl.expert import ExpertInTraining
from zfleet.rl.report import StepReport
from zfleet.svf.zvector import ZVector
from zfleet_jobs.run_folder.checkpoints import Z_FILE, CurvePoint, ExpertFolder
from zfleet_jobs.run_folder.storage import Storage

_BEFORE = "rewards_before.json"


@dataclass(frozen=True)
class TrainingState:
    """What a training has used so far, in all processes that worked on it.

    Attributes:
        samples: How many answers were learned from.
        seconds: Of its steps.
        peak_mib: The most memory of any step.
    """

    samples: int = 0
    seconds: float = 0.0
    peak_mib: float = 0.0

    def after(self, samples: int, seconds: float, peak_mib: float) -> TrainingState:
        """Add a step."""
        return TrainingState(self.samples + samples, self.seconds + seconds, max(self.peak_mib, peak_mib))


@dataclass(frozen=True)
class TrainingFolder:
    """Reads and writes the folder of one training.

    Attributes:
        storage: Where it is.
        samples: The folder of every sample, a path or a URI.
    """

    storage: Storage
    samples: str

    @property
    def _steps(self) -> ExpertFolder:
        return ExpertFolder(self.storage, self.samples)

    def resume(self, expert: ExpertInTraining) -> TrainingState:
        """Put an expert back to its newest checkpoint, if there is one, and return what was used until then.

        Raises:
            CheckpointError: It is damaged, or was made on other factors.
        """
        checkpoint = self._steps.checkpoint()
        if checkpoint is None:
            return TrainingState()
        expert.restore(checkpoint)
        points = [point.metrics for point in self._steps.curve(expert.name) if point.step <= checkpoint.step]
        return TrainingState(
            int(sum(metrics["used"] for metrics in points)),
            sum(metrics["seconds"] for metrics in points),
            max(metrics["peak_mib"] for metrics in points),
        )

    def write_step(self, expert: ExpertInTraining, report: StepReport, seconds: float, peak_mib: float) -> None:
        """Write the metrics of a step: before its checkpoint, so that no checkpoint is ahead of them.

        Raises:
            JobError: They cannot be written.
        """
        metrics = {"used": float(report.used), "seconds": seconds, "peak_mib": peak_mib}
        optional = {"reward": report.reward, "validation": report.validation}
        metrics |= {name: value for name, value in optional.items() if value is not None}
        self._steps.write_point(CurvePoint(expert.name, report.step, metrics))

    def write_checkpoint(self, expert: ExpertInTraining) -> None:
        """Write what a later process needs to go on from here.

        Raises:
            JobError: It cannot be written.
        """
        self._steps.write_checkpoint(expert.checkpoint())

    def steps_done(self) -> int:
        """Count the steps that were taken."""
        return self._steps.steps_taken()

    def curve(self) -> tuple[tuple[int, float], ...]:
        """Read the mean reward of the samples of each step, as (step, reward)."""
        points = self._steps.curve("")
        return tuple((point.step, point.metrics["reward"]) for point in points if "reward" in point.metrics)

    def write_before(self, rewards: tuple[float | None, ...]) -> None:
        """Write the base's rewards on the held-out prompts, so that a resumed training does not measure them again.

        Raises:
            JobError: They cannot be written.
        """
        self.storage.put(_BEFORE, json.dumps(rewards).encode())

    def before(self) -> tuple[float | None, ...] | None:
        """Read what ``write_before`` wrote; None if it did not yet."""
        data = self.storage.get(_BEFORE)
        return None if data is None else tuple(json.loads(data))

    def write_z(self, z: ZVector) -> str:
        """Write the z that training gave, and return its file's name within the experiment's storage.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.put(Z_FILE, z.to_bytes())
        return "/".join((*self.storage.place.rsplit("/", 2)[-2:], Z_FILE))
