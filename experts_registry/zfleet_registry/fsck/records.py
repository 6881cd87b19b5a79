"""Records of versions without what a version needs, or with other digests than the log has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from zfleet.errors import RegistryError
from zfleet_registry import artifacts, catalog
from zfleet_registry.connect import Connection
from zfleet_registry.fsck.contents import Contents, Expert, readable
from zfleet_registry.fsck.fault import Fault
from zfleet_registry.references import model_name
from zfleet_registry.tags import PREFIX
from zfleet_registry.version import from_mlflow
from zfleet_registry.version_files import VersionFiles

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_DIGEST = "artifact_sha256"
_REMEDY = "register the expert again, point the aliases at the new version, and delete this one in MLflow"


def find(contents: Contents) -> Iterator[Fault]:
    """Find records that cannot be read, belong to another expert, or contradict the log."""
    for expert in contents.experts:
        for record in expert.records:
            yield from _of(contents.connection, expert, record)


def _of(connection: Connection, expert: Expert, record: ModelVersion) -> Iterator[Fault]:
    where = f"{expert.name}/{record.version}"
    entry = expert.registered.get(int(record.version))
    logged = str(entry.action.data.get(_DIGEST, "")) if entry is not None else ""
    version = readable(record)
    if version is not None:
        if (own := model_name(version.base_slug, version.name)) != expert.name:
            yield Fault("record", where, f"its tags say that it is of {own}", _REMEDY)
        if logged and version.artifact_sha256 != logged:
            what = f"its digest is {version.artifact_sha256[:12]}, and the log has {logged[:12]}"
            yield Fault("record", where, what, _REMEDY, partial(_set_digest, connection, record, logged))
    elif f"{PREFIX}{_DIGEST}" not in record.tags:
        what = "it has no digest"
        yield Fault("record", where, what, _REMEDY, partial(_set_digest, connection, record, logged))
    else:
        try:
            from_mlflow(record, {})
        except RegistryError as error:
            yield Fault("record", where, error.message, _REMEDY)


def _set_digest(connection: Connection, record: ModelVersion, logged: str) -> str:
    """Set the digest that the log has, or that of the file if that is of the registered z. Either must load."""
    digest = logged or _digest_of_file(connection, record)
    version = from_mlflow(record, {}, {_DIGEST: digest})
    with connection.answering(f"set the digest of {version.qualified}", "write"):
        artifacts.load(VersionFiles(connection, version, cache=False))
        catalog.tag_version(connection.client, record.name, version.version, f"{PREFIX}{_DIGEST}", digest)
    source = "as the log has it" if logged else "that of the file, which has the registered z"
    return f"set it to {digest[:12]}, {source}"


def _digest_of_file(connection: Connection, record: ModelVersion) -> str:
    files = VersionFiles(connection, from_mlflow(record, {}, {_DIGEST: ""}), cache=False)
    with connection.answering(f"read the artifact of {files.version.qualified}"):
        return hashlib.sha256(files.unverified_artifact()).hexdigest()
