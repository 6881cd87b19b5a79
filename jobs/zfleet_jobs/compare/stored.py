"""Where the outcomes of an experiment are stored: each under a digest of all that its training depends on."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import pyarrow as pa
from pyarrow import fs

from zfleet.config.compare import AblateSpec, CompareSpec
from zfleet.config.load import dump_spec
from zfleet.errors import JobError, SpecError
from zfleet.models.bundle import BaseBundle
from zfleet.rewards.grading import reward_identity
from zfleet.tasks.fit import data_digest
from zfleet.tasks.task import Task
from zfleet_jobs.compare.outcome import Outcome
from zfleet_jobs.compare.training_folder import TrainingFolder
from zfleet_jobs.compare.trial import Trial
from zfleet_jobs.recorded_spec import recorded
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.samples.layout import Training

log = logging.getLogger(__name__)

_LONGEST = 100
"""Characters of a method in a folder's name: that of an ablation may be a pattern of any length."""


@dataclass(frozen=True)
class StoredTrial:
    """The place of one training.

    Attributes:
        storage: The experiment's.
        file: Its outcome's name in there.
        folder: The folder that says how far it is, and has its z in the end.
    """

    storage: Storage
    file: str
    folder: TrainingFolder

    def store(self, outcome: Outcome) -> None:
        """Write what the training gave.

        Raises:
            JobError: It cannot be written.
        """
        self.storage.put(self.file, outcome.to_json())

    def outcome(self) -> Outcome | None:
        """Read what the training gave; None if it has not finished.

        Raises:
            JobError: Its file is damaged or cannot be read.
        """
        place = f"{self.storage.place}/{self.file}"
        try:
            data = self.storage.get(self.file)
            return None if data is None else Outcome.from_json(data)
        except OSError as error:
            raise JobError(
                f"{place} cannot be read: {error}", "correct its permissions, or check that it answers"
            ) from error
        except ValueError as error:
            raise JobError(f"{place} is damaged: {error}", "delete it: its training runs again") from error


def open_storage(spec: CompareSpec | AblateSpec) -> Storage:
    """Open the storage of the experiment's results.

    Raises:
        SpecError: A URI that nothing here can open.
    """
    storage = Storage.at(spec.storage)
    try:
        fs.FileSystem.from_uri(storage.place)
    except pa.ArrowInvalid as error:
        raise SpecError(
            f"storage is {spec.storage!r}: {error}", "give a folder, or a URI such as s3://bucket/folder"
        ) from error
    return storage


def store_spec(storage: Storage, spec: CompareSpec | AblateSpec) -> None:
    """Write the spec of the newest call, which also shows that the storage can be written before anything is trained.

    Raises:
        JobError: It cannot be written.
    """
    storage.put(f"{spec.kind}.yaml", dump_spec(recorded(spec)).encode())


def stored_trials(
    storage: Storage,
    spec: CompareSpec | AblateSpec,
    trials: Iterable[Trial],
    bundles: Mapping[str, BaseBundle],
    tasks: Mapping[str, Task],
) -> dict[Trial, StoredTrial]:
    """Find the place of every training."""
    of_tasks = {
        name: [spec.tasks[name].model_dump(), reward_identity(task.reward), data_digest(task)]
        for name, task in tasks.items()
    }

    def place(trial: Trial) -> StoredTrial:
        depends = {
            "method": [trial.method, trial.settings.model_dump(), trial.learner.model_dump()],
            "factors": bundles[trial.settings.targets or spec.base.targets].factors_digest,
            "dtype": spec.base.dtype,
            "device": spec.base.device,
            "task": [trial.task, of_tasks[trial.task]],
            "engine": spec.engine.model_dump(),
            "eval_samples": spec.eval_samples,
            "threads": spec.resources.torch_threads,
            # Results that lack a measurement, from an older version of zfleet, are computed again.
            "measured": [field.name for field in fields(Outcome)],
        }
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:24]
        name = folder_name(trial)
        samples = Training(spec.kind, name, digest[:12]).folder_in(storage.place)
        folder = storage.folder("trainings").folder(f"{name}-{digest[:12]}")
        return StoredTrial(storage, f"{digest}.json", TrainingFolder(folder, samples))

    return {trial: place(trial) for trial in trials}


def folder_name(trial: Trial) -> str:
    """Name a training's folder of samples: ``METHOD-TASK-SEED``, in characters that any file system takes."""
    method = re.sub(r"[^A-Za-z0-9_.]+", "-", trial.method)[:_LONGEST].strip("-.")
    return f"{method}-{trial.task}-{trial.seed}"


def warn_of_other_code(outcomes: Iterable[Outcome], code: str, storage: Storage) -> None:
    """Warn of results that another version of zfleet trained."""
    others = [outcome.code for outcome in outcomes if outcome.code != code]
    if others:
        log.warning(
            "%d trainings in %s were finished by zfleet %s, this is %s, and their results are taken as they are; to "
            "train all again, give another folder: --set storage=FOLDER",
            len(others),
            storage.place,
            ", ".join(sorted(set(others))),
            code,
        )
