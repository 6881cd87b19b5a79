"""Store the file of an expert or a dispatcher through MLflow's artifact API, and verify it on every load."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import CorruptArtifact, DispatcherError, InvalidZ
from zfleet.svf.zvector import ZVector
from zfleet_registry import z_file
from zfleet_registry.connect import Connection
from zfleet_registry.files import store_file
from zfleet_registry.provenance import Provenance, Registration, card, facts_of
from zfleet_registry.translate import library_errors, status_of
from zfleet_registry.version import ExpertVersion

FILE = "z.safetensors"
DISPATCHER_FILE = "dispatcher.safetensors"
_REMEDY = (
    "restore the file from a backup, or register the expert again and point the aliases at the new version; "
    "if all artifacts were moved, say so: zfleet registry move OLD NEW"
)


def store(
    connection: Connection,
    model: str,
    content: ZVector | StoredDispatcher,
    provenance: Provenance,
    registration: Registration,
) -> tuple[str, str]:
    """Upload a z or a dispatcher, with its provenance in the file's metadata, and its card, to a folder of their own.

    Returns:
        The file's path inside the run's artifacts, and the file's sha256.

    Raises:
        RegistryError: The file of a local registry cannot be written, for example because the disk is full.
    """
    name = FILE if isinstance(content, ZVector) else DISPATCHER_FILE
    data = content.to_bytes(z_file.metadata(model, provenance, registration))
    folder = f"experts/{model}-{content.digest[:12]}-{uuid.uuid4().hex[:8]}"
    store_file(connection, registration.run_id, f"{folder}/{name}", data)
    store_file(
        connection, registration.run_id, f"{folder}/{card.FILE}", card.card(model, provenance, registration).encode()
    )
    return f"{folder}/{name}", hashlib.sha256(data).hexdigest()


def load(connection: Connection, version: ExpertVersion) -> ZVector | StoredDispatcher:
    """Download a version's z or dispatcher and verify it completely.

    Raises:
        CorruptArtifact: The file is missing, truncated, changed, another version's, or contradicts the tags.
        RegistryUnreachable: The registry does not answer.
        AccessDenied: The user may not read it.
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
    read = StoredDispatcher.from_bytes if version.is_dispatcher else ZVector.from_bytes
    try:
        content: ZVector | StoredDispatcher = read(data, where)
    except (InvalidZ, DispatcherError) as error:
        raise CorruptArtifact(error.message, _REMEDY) from error
    # The file is the registered one, so any difference means that a tag was edited.
    for name, fact in facts_of(content).items():
        tag = getattr(version.provenance, name)
        if tag != fact:
            raise CorruptArtifact(f"{where} has {name} {fact!r}, but the version's tag says {tag!r}", _REMEDY)
    return content


def _download(connection: Connection, version: ExpertVersion, where: str) -> bytes:
    try:
        file = connection.local_file(version.run_id, version.artifact)
        if file is not None and file.exists():
            return file.read_bytes()
        with tempfile.TemporaryDirectory() as temporary:
            return Path(connection.client.download_artifacts(version.run_id, version.artifact, temporary)).read_bytes()
    except library_errors(OSError) as error:
        if status_of(error) in (401, 403):
            raise
        connection.probe()
        raise CorruptArtifact(
            f"{where} cannot be read{_place(connection, version)}: {connection.reason(error)}", _REMEDY
        ) from None


def _place(connection: Connection, version: ExpertVersion) -> str:
    """Return where the registry's records have a version's artifacts, for an error."""
    with suppress(*library_errors()):
        return f" from {connection.client.get_run(version.run_id).info.artifact_uri}"
    return ""
