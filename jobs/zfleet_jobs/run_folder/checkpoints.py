"""The folder of one expert in training: its curve, its checkpoints, and at the end its z.

Ray Train's own checkpoints are not used: it lists them in a file that it writes in place, so that a full disk or a
kill at the wrong moment leaves half a list, and a run that never starts again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zfleet.errors import CheckpointError
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.samples.layout import Training

if TYPE_CHECKING:
    # Imported late below: torch takes two seconds, and the board, which passes on points, needs none of it.
    from zfleet.rl.checkpoint import Checkpoint
    from zfleet.svf.zvector import ZVector
    from zfleet_jobs.run_folder.plan import Plan

BEFORE_FILE = "before.json"
Z_FILE = "z.safetensors"
MEASURED_FILE = "measured.json"
RUN_FILE = "registry_run.json"
_SUFFIX = ".safetensors"
_CHECKPOINTS = 2
"""How many stay: a kill may come between those of a cohort's experts, which then go on from the one before."""


@dataclass(frozen=True)
class CurvePoint:
    """One step of one expert.

    Attributes:
        expert: Its name.
        step: From 1.
        metrics: What is logged of it.
    """

    expert: str
    step: int
    metrics: dict[str, float]


def expert_folder(run: Storage, plan: Plan) -> ExpertFolder:
    """Find the folder of one expert in that of its run; a digest in its name separates it from other settings."""
    root, _, name = run.place.rpartition("/")
    digest = plan.digest[:12]
    samples = Training(name, plan.expert.name, digest).folder_in(root)
    return ExpertFolder(run.folder(f"{plan.expert.name}-{digest}"), samples)


def cohort_checkpoints(cohort: Sequence[ExpertFolder]) -> list[Checkpoint | None]:
    """Read what each expert of a cohort goes on from.

    If a kill came when some had written a checkpoint and others had not, those go back to the one before: experts share
    batches, so that what they learn is the same, bit for bit, only if they go on from one step together.

    Raises:
        CheckpointError: One is damaged.
    """
    steps = [[0, *folder.checkpoint_steps()] for folder in cohort]
    # Experts that have not started do not hold the others back.
    least = min((own[-1] for own, folder in zip(steps, cohort, strict=True) if folder.started()), default=0)
    return [
        folder.checkpoint(least if own[-1] > least and own[-2] == least else own[-1])
        for own, folder in zip(steps, cohort, strict=True)
    ]


@dataclass(frozen=True)
class ExpertFolder:
    """The folder of one expert's run.

    Attributes:
        storage: Where it is.
        samples: Where every sample is written.
    """

    storage: Storage
    samples: str

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.storage.place.rpartition("/")[2]

    @property
    def _checkpoints(self) -> Storage:
        return self.storage.folder("states")

    @property
    def _curve(self) -> Storage:
        return self.storage.folder("curve")

    def write_point(self, point: CurvePoint) -> None:
        """Write the metrics of one step; a step that runs again overwrites them.

        Raises:
            JobError: It cannot be written.
        """
        self._curve.put(f"{point.step:06d}.json", json.dumps(point.metrics).encode())

    def started(self) -> bool:
        """Whether a step was taken."""
        return bool(self._curve.names())

    def steps_taken(self) -> int:
        """Count the steps that have metrics."""
        return len(self._curve.names())

    def curve(self, expert: str) -> list[CurvePoint]:
        """Read the metrics of all steps so far, in order."""
        files = {int(name.partition(".")[0]): self._curve.get(name) or b"" for name in self._curve.names()}
        return [CurvePoint(expert, step, json.loads(files[step])) for step in sorted(files)]

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint beside the newest one; older ones are deleted.

        Raises:
            JobError: It cannot be written; what was there before stays.
        """
        self._checkpoints.put(f"{checkpoint.step:06d}{_SUFFIX}", checkpoint.to_bytes())
        for step in [step for step in self.checkpoint_steps() if step <= checkpoint.step][:-_CHECKPOINTS]:
            self._checkpoints.delete(f"{step:06d}{_SUFFIX}")

    def checkpoint_steps(self) -> list[int]:
        """List the steps after which there is a checkpoint, in order."""
        return sorted(int(name.removesuffix(_SUFFIX)) for name in self._checkpoints.names() if name.endswith(_SUFFIX))

    def checkpoint(self, step: int | None = None) -> Checkpoint | None:
        """Read the checkpoint of a step, or the newest one; None if there is none.

        Raises:
            CheckpointError: It is damaged.
        """
        from zfleet.rl.checkpoint import Checkpoint

        steps = self.checkpoint_steps()
        step = steps[-1] if step is None and steps else step
        if not step:
            return None
        name = f"{step:06d}{_SUFFIX}"
        earlier = max((one for one in steps if one < step), default=0)
        place = f"{self._checkpoints.place}/{name}"
        remedy = f"delete it: the run goes on from step {earlier}" if earlier else "delete it: the run begins again"
        return Checkpoint.from_bytes(self._checkpoints.get(name) or b"", place, remedy)

    def check_factors(self, factors: str) -> None:
        """Refuse to go on from what was learned on other factors, before anything is started.

        Raises:
            CheckpointError: It was, or it is damaged.
        """
        checkpoint = self.checkpoint()
        if checkpoint is not None and checkpoint.factors != factors:
            raise CheckpointError(
                f"{self._checkpoints.place} was made on factors {checkpoint.factors[:12]}, this job's base has "
                f"{factors[:12]}: a z means something only on the factors it was trained on",
                "resume with the base it was made on, or give this job a run of its own: --set run=NAME",
            )

    def write_score_before(self, score: Mapping[str, float]) -> None:
        """Write the score on the held-out prompts before the first step, so that a resumed run does not repeat it.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.put(BEFORE_FILE, json.dumps(dict(score)).encode())

    def score_before(self) -> dict[str, float] | None:
        """Read what ``write_score_before`` wrote; None if it did not yet."""
        data = self.storage.get(BEFORE_FILE)
        return None if data is None else dict(json.loads(data))

    def write_result(self, z: ZVector, measured: Mapping[str, float]) -> None:
        """Write the result of training: the z first, so that measurements are never without it.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.put(Z_FILE, z.to_bytes())
        self.storage.put(MEASURED_FILE, json.dumps(dict(measured)).encode())

    def result(self) -> tuple[ZVector, dict[str, float]] | None:
        """Read what ``write_result`` wrote; None if training has not finished.

        Raises:
            InvalidZ: The z is damaged.
        """
        from zfleet.svf.zvector import ZVector

        measured, z = self.storage.get(MEASURED_FILE), self.storage.get(Z_FILE)
        if measured is None or z is None:
            return None
        return ZVector.from_bytes(z, f"{self.storage.place}/{Z_FILE}"), json.loads(measured)

    def write_run_id(self, run_id: str) -> None:
        """Write which run of the registry has the curves, so that a resumed run goes on with it.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.put(RUN_FILE, json.dumps({"run": run_id}).encode())

    def run_id(self) -> str | None:
        """Read what ``write_run_id`` wrote; another registry has no run of that id."""
        data = self.storage.get(RUN_FILE)
        return None if data is None else str(json.loads(data)["run"])
