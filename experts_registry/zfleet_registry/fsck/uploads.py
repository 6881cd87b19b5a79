"""What uploads left that were cut short before their version was created: runs and folders that no version has."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from zfleet.errors import RegistryError
from zfleet_registry.artifacts import FOLDER
from zfleet_registry.connect import Connection
from zfleet_registry.fsck.contents import Contents
from zfleet_registry.fsck.fault import Fault
from zfleet_registry.registry import RUN_NAME
from zfleet_registry.runs import REGISTRATIONS
from zfleet_registry.tags import PREFIX

if TYPE_CHECKING:
    from mlflow.entities import Run

OLD_SECONDS = 3600.0
"""How long ago an upload must have begun, or its run ended, that nobody continues."""
_UPLOAD = re.compile(rf"{FOLDER}/(.+)-[0-9a-f]{{12}}-[0-9a-f]{{8}}")


def find(contents: Contents) -> Iterator[Fault]:
    """Find them.

    What belonged to a version that somebody deleted looks alike: uploads of experts with deleted versions are left
    alone, because a deleted version can be registered again from its files.
    """
    deleted = {expert.name for expert in contents.experts if expert.has_deleted}
    records = [record for expert in contents.experts for record in expert.records]
    owners = {record.run_id for record in records}
    folders = {record.tags.get(f"{PREFIX}artifact", "").rpartition("/")[0] for record in records}
    connection = contents.connection
    for run, experiment in _runs(connection):
        # A run of a folder's import is in the same experiment, and has the versions of many experts.
        if experiment == REGISTRATIONS and run.info.run_name.startswith(RUN_NAME):
            expert = run.info.run_name.removeprefix(RUN_NAME)
            if run.info.run_id not in owners and expert not in deleted and _is_old(run):
                what = f"the registration of {expert} was cut short"
                yield Fault("upload", f"run {run.info.run_id}", what, mend=partial(_delete_run, connection, run))
        elif run.info.end_time and _is_old(run):
            for folder in _uploads(connection, run):
                upload = _UPLOAD.fullmatch(folder)
                if upload is not None and folder not in folders and upload[1] not in deleted:
                    what = f"no version has {folder}"
                    mend = partial(_delete_folder, connection, run, folder)
                    yield Fault("upload", f"run {run.info.run_id}", what, mend=mend)


def _runs(connection: Connection) -> Iterator[tuple[Run, str]]:
    """Yield every run with the name of its experiment."""
    with connection.answering("list runs"):
        client = connection.client
        for experiment in client.search_experiments():
            token = None
            while True:
                page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
                yield from ((run, experiment.name) for run in page)
                token = page.token
                if not token:
                    break


def _is_old(run: Run) -> bool:
    return bool(time.time() - (run.info.end_time or run.info.start_time) / 1000 > OLD_SECONDS)


def _uploads(connection: Connection, run: Run) -> list[str]:
    local = connection.local_file(run.info.run_id, FOLDER)
    if local is not None:
        return sorted(f"{FOLDER}/{path.name}" for path in local.iterdir()) if local.is_dir() else []
    with connection.answering(f"list the files of run {run.info.run_id}"):
        return [item.path for item in connection.client.list_artifacts(run.info.run_id, FOLDER) if item.is_dir]


def _delete_run(connection: Connection, run: Run) -> str:
    with connection.answering(f"delete run {run.info.run_id}", "manage"):
        if run.info.status == "RUNNING":
            connection.client.set_terminated(run.info.run_id, "FAILED")
        connection.client.delete_run(run.info.run_id)
    return "deleted the run; `mlflow gc` removes its files"


def _delete_folder(connection: Connection, run: Run, folder: str) -> str:
    local = connection.local_file(run.info.run_id, folder)
    if local is None:
        raise RegistryError(f"{folder} is in a store of the server", f"delete {run.info.artifact_uri}/{folder} there")
    shutil.rmtree(local, ignore_errors=True)
    return "deleted the folder"
