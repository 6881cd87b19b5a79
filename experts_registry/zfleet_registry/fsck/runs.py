"""Deleted experiments and runs that still own versions: `mlflow gc` would remove the artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING

from zfleet_registry.connect import Connection
from zfleet_registry.fsck.contents import Contents
from zfleet_registry.fsck.fault import Fault
from zfleet_registry.runs import REGISTRATIONS

if TYPE_CHECKING:
    from mlflow.entities import Run

_DELETED = "deleted"


def find(contents: Contents) -> Iterator[Fault]:
    """Find the runs of all versions, and their experiments. An experiment's runs come back with it."""
    connection, client = contents.connection, contents.connection.client

    @cache
    def run_of(run_id: str) -> Run | None:
        return _run(connection, run_id)

    versions = [(version.qualified, run_of(version.run_id)) for version in contents.versions]
    with connection.answering("look at experiments"):
        deleted = _deleted_experiments(connection)
        owners = {run.info.experiment_id for _, run in versions if run is not None}
        for number, name in deleted.items():
            if number in owners or name == REGISTRATIONS:
                restore = partial(client.restore_experiment, number)
                mend = partial(_restored, connection, f"restore experiment {name}", restore)
                yield Fault("run", f"experiment {name}", "it was deleted in MLflow", mend=mend)
    for qualified, run in versions:
        if run is None:
            yield Fault("run", qualified, "its run does not exist any more", "restore the tracking database")
        elif run.info.lifecycle_stage == _DELETED and run.info.experiment_id not in deleted:
            restore = partial(client.restore_run, run.info.run_id)
            mend = partial(_restored, connection, f"restore run {run.info.run_id}", restore)
            yield Fault("run", qualified, f"its run {run.info.run_id} was deleted in MLflow", mend=mend)


def _run(connection: Connection, run_id: str) -> Run | None:
    from mlflow.exceptions import MlflowException

    with connection.answering(f"look at run {run_id}"):
        try:
            return connection.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def _deleted_experiments(connection: Connection) -> dict[str, str]:
    """Return {id: name}."""
    from mlflow.entities import ViewType

    found: dict[str, str] = {}
    token = None
    while True:
        page = connection.client.search_experiments(ViewType.DELETED_ONLY, page_token=token)
        found |= {str(experiment.experiment_id): experiment.name for experiment in page}
        token = page.token
        if not token:
            return found


def _restored(connection: Connection, doing: str, restore: partial[None]) -> str:
    with connection.answering(doing, "manage"):
        restore()
    return "restored it"
