"""An expert's file: stored through MLflow's artifact API, verified on every load."""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from pathlib import Path

import requests

from zfleet.errors import CorruptArtifact, InvalidZ, RegistryError
from zfleet.files import write_atomic
from zfleet.svf.zvector import ZVector
from zfleet_registry.connect import Connection
from zfleet_registry.provenance import Provenance
from zfleet_registry.version import ExpertVersion

FILE = "z.safetensors"
_REMEDY = "restore the file from a backup, or register the expert again and point the aliases at the new version"


def store(connection: Connection, run_id: str, model: str, z: ZVector, provenance: Provenance) -> tuple[str, str]:
    """Upload a z, with its provenance in the file's metadata, to a folder of its own.

    Returns:
        Path of the file inside the run's artifacts, and sha256 of the file.

    Raises:
        RegistryError: The disk of a local registry is full, for example.
    """
    data = z.to_bytes({"name": model, "provenance": json.dumps(provenance.to_strings(), sort_keys=True)})
    folder = f"experts/{model}-{z.digest[:12]}-{uuid.uuid4().hex[:8]}"
    local = connection.local_file(run_id, f"{folder}/{FILE}")
    if local is None:
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / FILE
            file.write_bytes(data)
            connection.client.log_artifact(run_id, str(file), folder)
    else:
        # Not by MLflow, which remembers where a run's artifacts were when it was asked first.
        try:
            write_atomic(local, data)
        except OSError as error:
            raise RegistryError(
                f"{local} cannot be written: {error.strerror or error}", "make room there, or mend its rights"
            ) from error
    return f"{folder}/{FILE}", hashlib.sha256(data).hexdigest()


def load(connection: Connection, version: ExpertVersion) -> ZVector:
    """Download a version's z and verify all of it.

    Raises:
        CorruptArtifact: The file is missing, truncated, changed, another version's, or contradicts the tags.
        RegistryUnreachable: The registry does not answer.
    """
    where = f"artifact {version.artifact} of {version.qualified}"
    data = _download(connection, version, where)
    digest = hashlib.sha256(data).hexdigest()
    if digest != version.artifact_sha256:
        raise CorruptArtifact(
            f"{where} was changed: its {len(data)} bytes have sha256 {digest[:12]}, "
            f"registered was {version.artifact_sha256[:12]}",
            _REMEDY,
        )
    try:
        z = ZVector.from_bytes(data, where)
    except InvalidZ as error:
        raise CorruptArtifact(error.message, _REMEDY) from error
    # The file is the one that was registered: what differs now is a tag that somebody edited.
    facts = {"z_digest": z.digest, "base": z.base, "factors": z.factors, "targets": z.targets}
    for name, fact in facts.items():
        tag = getattr(version.provenance, name)
        if tag != fact:
            raise CorruptArtifact(f"{where} has {name} {fact!r}, the version's tag says {tag!r}", _REMEDY)
    return z


def _download(connection: Connection, version: ExpertVersion, where: str) -> bytes:
    from mlflow.exceptions import MlflowException

    try:
        file = connection.local_file(version.run_id, version.artifact)
        if file is not None and file.exists():
            return file.read_bytes()
        with tempfile.TemporaryDirectory() as temporary:
            return Path(connection.client.download_artifacts(version.run_id, version.artifact, temporary)).read_bytes()
    except (OSError, MlflowException, requests.RequestException) as error:
        connection.probe()
        raise CorruptArtifact(f"{where} cannot be read: {connection.reason(error)}", _REMEDY) from None
