"""Store an expert's file through MLflow's artifact API, and verify it on every load."""

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
    """Upload a z, with its provenance in the file's metadata, to its own folder.

    Returns:
        The file's path inside the run's artifacts, and the file's sha256.

    Raises:
        RegistryError: The file of a local registry cannot be written, for example because the disk is full.
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
        # Written without MLflow, because MLflow caches the place of a run's artifacts, and a registry may be moved.
        try:
            write_atomic(local, data)
        except OSError as error:
            raise RegistryError(
                f"{local} cannot be written: {error.strerror or error}", "free disk space, or correct the permissions"
            ) from error
    return f"{folder}/{FILE}", hashlib.sha256(data).hexdigest()


def load(connection: Connection, version: ExpertVersion) -> ZVector:
    """Download a version's z and verify it completely.

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
            f"but {version.artifact_sha256[:12]} was registered",
            _REMEDY,
        )
    try:
        z = ZVector.from_bytes(data, where)
    except InvalidZ as error:
        raise CorruptArtifact(error.message, _REMEDY) from error
    # The file is the registered one, so any difference means that a tag was edited.
    facts = {"z_digest": z.digest, "base": z.base, "factors": z.factors, "targets": z.targets}
    for name, fact in facts.items():
        tag = getattr(version.provenance, name)
        if tag != fact:
            raise CorruptArtifact(f"{where} has {name} {fact!r}, but the version's tag says {tag!r}", _REMEDY)
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
