"""What the run of one expert keeps: after every step all that the next one needs, and at its end the z.

Ray Train's own checkpoints are not used: it lists them in a file that it writes in place, so that a full disk or a
kill at the wrong moment leaves half a list, and a run that never starts again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zfleet.errors import CheckpointError
from zfleet.rl.checkpoint import Checkpoint
from zfleet.svf.zvector import ZVector
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.samples.layout import Training
from zfleet_jobs.train.progress.board import Row

if TYPE_CHECKING:
    from zfleet_jobs.train.plan import Plan

BEFORE_FILE = "before.json"
Z_FILE = "z.safetensors"
MEASURED_FILE = "measured.json"
RUN_FILE = "registry_run.json"
_STATE = ".safetensors"
_STATES = 2
"""How many stay: a kill may come between those of a cohort's members, who then go on from the one before."""


def kept_run(run: Storage, plan: Plan) -> KeptRun:
    """Of one expert, in the folder of its run; a digest in its name keeps what was trained otherwise out of it."""
    root, _, name = run.place.rpartition("/")
    digest = plan.digest[:12]
    samples = Training(name, plan.expert.name, digest).folder_in(root)
    return KeptRun(run.folder(f"{plan.expert.name}-{digest}"), samples)


def kept_states(cohort: Sequence[KeptRun]) -> list[Checkpoint | None]:
    """What each member of a cohort goes on from.

    Where a kill came when some had kept a step and others had not, those go back to the one before: members share
    batches, so that what they learn is the same, bit for bit, only if they are where they were together.

    Raises:
        CheckpointError: One is damaged.
    """
    steps = [[0, *kept.steps()] for kept in cohort]
    # Who has not even begun comes along later than the others.
    least = min((own[-1] for own, kept in zip(steps, cohort, strict=True) if kept.begun()), default=0)
    return [
        kept.state(least if own[-1] > least and own[-2] == least else own[-1])
        for own, kept in zip(steps, cohort, strict=True)
    ]


@dataclass(frozen=True)
class KeptRun:
    """The folder of one expert's run.

    Attributes:
        storage: Where it is.
        samples: Where every sample is written.
    """

    storage: Storage
    samples: str

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.storage.place.rpartition("/")[2]

    @property
    def _states(self) -> Storage:
        return self.storage.folder("states")

    def keep_row(self, row: Row) -> None:
        """Keep what a step says of itself; one that runs again says it again.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.folder("curve").put(f"{row.step:06d}.json", json.dumps(row.metrics).encode())

    def begun(self) -> bool:
        """Whether a step was taken."""
        return bool(self.storage.folder("curve").names())

    def rows(self, expert: str) -> list[Row]:
        """What was kept of all steps so far, in their order."""
        curve = self.storage.folder("curve")
        found = {int(name.partition(".")[0]): curve.get(name) or b"" for name in curve.names()}
        return [Row(expert, step, json.loads(found[step]), 0) for step in sorted(found)]

    def keep_state(self, state: Checkpoint) -> None:
        """Keep what the next step needs, beside what was kept last; older ones go.

        Raises:
            JobError: It cannot be written; what was kept before stays.
        """
        self._states.put(f"{state.step:06d}{_STATE}", state.to_bytes())
        for step in [step for step in self.steps() if step <= state.step][:-_STATES]:
            self._states.delete(f"{step:06d}{_STATE}")

    def steps(self) -> list[int]:
        """After which steps a state is kept, in their order."""
        return sorted(int(name.removesuffix(_STATE)) for name in self._states.names() if name.endswith(_STATE))

    def state(self, step: int | None = None) -> Checkpoint | None:
        """What was kept after a step, or last; None where nothing is.

        Raises:
            CheckpointError: It is damaged.
        """
        steps = self.steps()
        step = steps[-1] if step is None and steps else step
        if not step:
            return None
        name = f"{step:06d}{_STATE}"
        earlier = max((one for one in steps if one < step), default=0)
        place = f"{self._states.place}/{name}"
        remedy = f"delete it: the run goes on from step {earlier}" if earlier else "delete it: the run begins again"
        return Checkpoint.from_bytes(self._states.get(name) or b"", place, remedy)

    def check(self, factors: str) -> None:
        """Refuse to go on from what was learned on other factors, before anything is started.

        Raises:
            CheckpointError: It was, or it is damaged.
        """
        state = self.state()
        if state is not None and state.factors != factors:
            raise CheckpointError(
                f"{self._states.place} was made on factors {state.factors[:12]}, this job's base has "
                f"{factors[:12]}: a z means something only on the factors it was trained on",
                "resume with the base it was made on, or give this job a run of its own: --set run=NAME",
            )

    def keep_before(self, measured: Mapping[str, float]) -> None:
        """Keep what the base answers, for whoever goes on.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.put(BEFORE_FILE, json.dumps(dict(measured)).encode())

    def before(self) -> dict[str, float] | None:
        """What ``keep_before`` kept."""
        kept = self.storage.get(BEFORE_FILE)
        return None if kept is None else dict(json.loads(kept))

    def finish(self, z: ZVector, measured: Mapping[str, float]) -> None:
        """Keep what training gave: the z first, so that measurements are never without it.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.put(Z_FILE, z.to_bytes())
        self.storage.put(MEASURED_FILE, json.dumps(dict(measured)).encode())

    def finished(self) -> tuple[ZVector, dict[str, float]] | None:
        """What ``finish`` kept; None where training has not come to its end.

        Raises:
            InvalidZ: The z is damaged.
        """
        measured, z = self.storage.get(MEASURED_FILE), self.storage.get(Z_FILE)
        if measured is None or z is None:
            return None
        return ZVector.from_bytes(z, f"{self.storage.place}/{Z_FILE}"), json.loads(measured)

    def keep_run(self, run_id: str) -> None:
        """Keep which run of the registry has the curves, for whoever goes on.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.put(RUN_FILE, json.dumps({"run": run_id}).encode())

    def run_id(self) -> str | None:
        """What ``keep_run`` kept; another registry has no run of that id."""
        kept = self.storage.get(RUN_FILE)
        return None if kept is None else str(json.loads(kept)["run"])
