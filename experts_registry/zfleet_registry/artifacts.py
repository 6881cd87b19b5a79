"""Store the file of an expert or a dispatcher through MLflow's artifact API, and verify it on every load."""

from __future__ import annotations

import hashlib
import uuid

from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import CorruptArtifact, DispatcherError, InvalidZ
from zfleet.svf.zvector import ZVector
from zfleet_registry import z_file
from zfleet_registry.connect import Connection
from zfleet_registry.files import store_file
from zfleet_registry.provenance import Provenance, Registration, card, facts_of
from zfleet_registry.version_files import REMEDY, SignedFiles, VersionFiles

FOLDER = "experts"
"""Among the artifacts of a run: each upload has a folder of its own in it."""
FILE = "z.safetensors"
DISPATCHER_FILE = "dispatcher.safetensors"


def store(
    connection: Connection,
    model: str,
    content: ZVector | StoredDispatcher,
    provenance: Provenance,
    registration: Registration,
    signed: SignedFiles | None = None,
) -> tuple[str, str]:
    """Upload a z or a dispatcher, with its provenance in the file's metadata, and its card, to a folder of their own.

    Args:
        connection: The registry.
        model: The name, qualified by the base.
        content: The z or the dispatcher.
        provenance: Of the content.
        registration: Who registers it.
        signed: The files of a signed version of this content, stored as they are: any change would end the signatures.

    Returns:
        The file's path inside the run's artifacts, and the file's sha256.

    Raises:
        RegistryError: The file of a local registry cannot be written, for example because the disk is full.
    """
    name = FILE if isinstance(content, ZVector) else DISPATCHER_FILE
    if signed is None:
        data = content.to_bytes(z_file.metadata(model, provenance, registration))
        signed = SignedFiles(data, {card.FILE: card.card(model, provenance, registration).encode()})
    folder = f"{FOLDER}/{model}-{content.digest[:12]}-{uuid.uuid4().hex[:8]}"
    for path, data in {name: signed.artifact, **signed.beside}.items():
        store_file(connection, registration.run_id, f"{folder}/{path}", data)
    return f"{folder}/{name}", hashlib.sha256(signed.artifact).hexdigest()


def load(files: VersionFiles) -> ZVector | StoredDispatcher:
    """Download a version's z or dispatcher and verify it completely.

    Raises:
        CorruptArtifact: The file is missing, truncated, changed, another version's, or contradicts the tags.
        RegistryUnreachable: The registry does not answer.
        AccessDenied: The user may not read it.
    """
    version, data = files.version, files.artifact()
    where = f"artifact {version.artifact} of {version.qualified}"
    read = StoredDispatcher.from_bytes if version.is_dispatcher else ZVector.from_bytes
    try:
        content: ZVector | StoredDispatcher = read(data, where)
    except (InvalidZ, DispatcherError) as error:
        raise CorruptArtifact(error.message, REMEDY) from error
    # The file is the registered one, so any difference means that a tag was edited.
    for name, fact in facts_of(content).items():
        tag = getattr(version.provenance, name)
        if tag != fact:
            raise CorruptArtifact(f"{where} has {name} {fact!r}, but the version's tag says {tag!r}", REMEDY)
    return content
