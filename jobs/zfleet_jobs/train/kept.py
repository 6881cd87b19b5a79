"""What the run of one expert keeps: after every step all that the next one needs, and at its end the z.

Ray Train's own checkpoints are not used: it lists them in a file that it writes in place, so that a full disk or a
kill at the wrong moment leaves half a list, and a run that never starts again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zfleet.errors import CheckpointError
from zfleet.rl.checkpoint import FILE, LearnerState
from zfleet.svf.zvector import ZVector
from zfleet_jobs.samples.layout import Training
from zfleet_jobs.train.board import Row
from zfleet_jobs.train.plan import Plan
from zfleet_jobs.train.storage import Storage

Z_FILE = "z.safetensors"
MEASURED_FILE = "measured.json"
RUN_FILE = "registry_run.json"


def kept_run(run: Storage, plan: Plan) -> KeptRun:
    """Of one expert, in the folder of its run; a digest in its name keeps what was trained otherwise out of it."""
    root, _, name = run.place.rpartition("/")
    digest = plan.digest[:12]
    samples = Training(name, plan.expert.name, digest).folder_in(root)
    return KeptRun(run.folder(f"{plan.expert.name}-{digest}"), samples)


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

    def keep_row(self, row: Row) -> None:
        """Keep what a step says of itself; one that runs again says it again.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.folder("curve").put(f"{row.step:06d}.json", json.dumps(row.metrics).encode())

    def rows(self, expert: str) -> list[Row]:
        """What was kept of all steps so far, in their order."""
        curve = self.storage.folder("curve")
        found = {int(name.partition(".")[0]): curve.get(name) or b"" for name in curve.names()}
        return [Row(expert, step, json.loads(found[step]), 0) for step in sorted(found)]

    def keep_state(self, state: LearnerState) -> None:
        """Keep what the next step needs, in place of the one before.

        Raises:
            JobError: It cannot be written; the one before stays.
        """
        with tempfile.TemporaryDirectory(prefix="zfleet-state-") as folder:
            state.save(Path(folder))
            self.storage.put(FILE, (Path(folder) / FILE).read_bytes())

    def state(self) -> LearnerState | None:
        """What ``keep_state`` kept last.

        Raises:
            CheckpointError: It is damaged.
        """
        local = self.storage.local
        if local is not None:
            return LearnerState.load(local) if (local / FILE).exists() else None
        data = self.storage.get(FILE)
        if data is None:
            return None
        with tempfile.TemporaryDirectory(prefix="zfleet-state-") as folder:
            (Path(folder) / FILE).write_bytes(data)
            return LearnerState.load(Path(folder))

    def check(self, factors: str) -> None:
        """Refuse to go on from what was learned on other factors, before anything is started.

        Raises:
            CheckpointError: It was, or it is damaged.
        """
        state = self.state()
        if state is not None and state.factors != factors:
            raise CheckpointError(
                f"{self.storage.place}/{FILE} was made on factors {state.factors[:12]}, this job's base has "
                f"{factors[:12]}: a z means something only on the factors it was trained on",
                "resume with the base it was made on, or give this job a run of its own: --set run=NAME",
            )

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

    def keep_run(self, address: str, run_id: str) -> None:
        """Keep which run of which registry has the curves, for whoever goes on.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.put(RUN_FILE, json.dumps({"registry": address, "run": run_id}).encode())

    def run_in(self, address: str) -> str | None:
        """The registry's run, if it was this registry's."""
        kept = json.loads(self.storage.get(RUN_FILE) or b"{}")
        return str(kept["run"]) if kept.get("registry") == address else None
