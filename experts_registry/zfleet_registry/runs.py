"""Log the runs of jobs to MLflow: curves, final metrics and parameters."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zfleet.errors import RegistryError
from zfleet.paths import REGISTRY_FOLDER
from zfleet_registry.connect import connect
from zfleet_registry.files import store_file
from zfleet_registry.who import current_user

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

REGISTRATIONS = "registrations"
"""The experiment of registrations that have no run of their own."""

# MLflow's limits: metrics and parameters in one request, and characters of a value.
_METRICS_PER_CALL = 1000
_PARAMS_PER_CALL = 100
_PARAM_LENGTH = 6000
_TAG_LENGTH = 8000


class RunLog:
    """The runs of one MLflow registry. Several threads may use it at once.

    Args:
        uri: A tracking server or database; None for sqlite and local artifacts under ``root``.
        root: The folder of a local registry; for a database server, the folder of its artifacts.
        reading: Only read: do not create a missing local registry, and wait for a locked one only briefly.

    Raises:
        RegistryUnreachable: There is no answer within a few seconds.
        RegistryError: The URI cannot be used.
    """

    def __init__(self, uri: str | None = None, root: Path = Path(REGISTRY_FOLDER), *, reading: bool = False) -> None:
        self._connection = connect(uri, root, reading)
        self._client = self._connection.client

    @property
    def address(self) -> str:
        """The registry's URI without user and password, for messages and logs."""
        return self._connection.address

    @property
    def takes_writers_at_once(self) -> bool:
        """Whether several threads that write are faster than one. A sqlite file has one writer at a time."""
        return not self._connection.is_file

    def check_experiments(self, *names: str) -> None:
        """Refuse experiments in which no run can be started. Jobs call this before their work.

        Raises:
            RegistryError: An experiment was deleted in MLflow; says how to restore it.
        """
        with self._connection.answering("look at experiments"):
            for name in names:
                experiment = self._client.get_experiment_by_name(name)
                if experiment is not None:
                    self._refuse_deleted(experiment)

    def start_run(
        self,
        name: str,
        *,
        experiment: str,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Start a run and return its id. The experiment is created if it does not exist.

        Raises:
            RegistryError: A parameter or tag is too long. MLflow would cut it silently.
        """
        from mlflow.entities import Param

        _check_lengths("parameter", params or {}, _PARAM_LENGTH)
        _check_lengths("tag", tags or {}, _TAG_LENGTH)
        with self._connection.answering(f"start run {name!r}", "write"):
            experiment_id = self._experiment(experiment)
            # MLflow's page shows this tag as the one who created the run.
            known = {"mlflow.user": current_user(), **(tags or {})}
            run = self._client.create_run(experiment_id, run_name=name, tags=known)
            run_id = str(run.info.run_id)
            entries = [Param(key, str(value)) for key, value in (params or {}).items()]
            for start in range(0, len(entries), _PARAMS_PER_CALL):
                self._client.log_batch(run_id, params=entries[start : start + _PARAMS_PER_CALL])
            return run_id

    def reopen_run(self, run_id: str) -> bool:
        """Continue a run that ended or was abandoned; return False if there is no run of this id."""
        from mlflow.exceptions import MlflowException

        with self._connection.answering(f"continue run {run_id}", "write"):
            try:
                run = self._client.get_run(run_id)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise
            if run.info.lifecycle_stage == "deleted":
                return False
            self._client.update_run(run_id, status="RUNNING")
            return True

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log the metrics of one step. NaN stays NaN; MLflow stores infinities as the largest float."""
        self.log_curve(run_id, [(step, metrics)])

    def log_curve(self, run_id: str, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log many steps in few requests. A step's metrics are never split over two requests.

        Args:
            rows: (step, {metric: value}).
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        longest = max((len(metrics) for _, metrics in rows), default=1)
        steps_per_call = max(1, _METRICS_PER_CALL // max(1, longest))
        with self._connection.answering(f"log metrics of run {run_id}", "write"):
            for start in range(0, len(rows), steps_per_call):
                entries = [
                    Metric(key, float(value), now, step)
                    for step, metrics in rows[start : start + steps_per_call]
                    for key, value in metrics.items()
                ]
                self._client.log_batch(run_id, metrics=entries)

    def log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Store files as artifacts of a run.

        Args:
            run_id: The run.
            files: {path within the run's artifacts: bytes}.

        Raises:
            RegistryError: A file of a local registry cannot be written, for example because the disk is full.
        """
        with self._connection.answering(f"store files of run {run_id}", "write"):
            for path, data in files.items():
                store_file(self._connection, run_id, path, data)

    def end_run(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        """End a run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        with self._connection.answering(f"end run {run_id}", "write"):
            self._client.set_terminated(run_id, status)

    def metrics(self, run_id: str) -> dict[str, float]:
        """Return each metric's value at its last step."""
        with self._connection.answering(f"read metrics of run {run_id}"):
            return dict(self._client.get_run(run_id).data.metrics)

    def curve(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Return a metric as (step, value), sorted by step. If a step was logged twice, the later value counts."""
        with self._connection.answering(f"read {key!r} of run {run_id}"):
            history: list[Metric] = list(self._client.get_metric_history(run_id, key))
        latest = {metric.step: metric.value for metric in sorted(history, key=lambda metric: metric.timestamp)}
        return sorted(latest.items())

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=self._connection.artifacts))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                # Another process created it in the meantime.
                experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            raise RegistryError(f"experiment {name!r} was removed while it was opened", "run the same command again")
        self._refuse_deleted(experiment)
        return str(experiment.experiment_id)

    def _refuse_deleted(self, experiment: Experiment) -> None:
        if experiment.lifecycle_stage == "deleted":
            command = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
            raise RegistryError(
                f"experiment {experiment.name!r} of the registry {self.address} was deleted in MLflow",
                f"restore it: MLFLOW_TRACKING_URI={shlex.quote(self.address)} {command}",
            )


def _check_lengths(kind: str, values: Mapping[str, str], longest: int) -> None:
    for key, value in values.items():
        if len(str(value)) > longest:
            raise RegistryError(
                f"{kind} {key!r} has {len(str(value))} characters, but MLflow keeps {longest}",
                "log a digest or parts of it; a version's provenance takes specs of any length",
            )
