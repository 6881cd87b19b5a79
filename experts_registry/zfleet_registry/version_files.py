"""The files of a version in the store: its artifact, its card and its signatures, which share a folder."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zfleet.errors import CorruptArtifact
from zfleet_registry import z_file
from zfleet_registry.connect import Connection
from zfleet_registry.downloads import cached
from zfleet_registry.files import store_file
from zfleet_registry.provenance import card
from zfleet_registry.translate import library_errors, status_of
from zfleet_registry.version import ExpertVersion

SIGNATURES = "signatures"
"""The folder of a version's signatures, beside its artifact."""
LARGEST_BESIDE = 2**24
"""Bytes of a card or a signature."""
REMEDY = (
    "restore the file from a backup, or register the expert again and point the aliases at the new version; "
    "if all artifacts were moved, say so: zfleet registry move OLD NEW"
)


@dataclass(frozen=True)
class SignedFiles:
    """What signatures are of, byte for byte, and the signatures.

    Attributes:
        artifact: The artifact.
        beside: {path beside the artifact: file}: the card and the signatures.
    """

    artifact: bytes
    beside: Mapping[str, bytes]


class VersionFiles:
    """The files of one version.

    Args:
        connection: The registry.
        version: The version.
        cache: Whether an artifact that this machine downloaded before will do.
    """

    def __init__(self, connection: Connection, version: ExpertVersion, *, cache: bool = True) -> None:
        self.version = version
        self._connection = connection
        # The artifacts of a local registry are read where they are.
        self._cache = cache and connection.local_file(version.run_id, version.artifact) is None
        self._folder, _, self.artifact_name = version.artifact.rpartition("/")
        self._artifact: bytes | None = None

    def artifact(self) -> bytes:
        """Read the artifact once, and compare it with the digest that was registered.

        What is loaded and what a signature is verified of are the same bytes.

        Raises:
            CorruptArtifact: The file is missing, too large, truncated or changed.
            RegistryUnreachable: The registry does not answer.
        """
        if self._artifact is not None:
            return self._artifact
        where, registered = self._where(self.artifact_name), self.version.artifact_sha256
        data = cached(registered, self.unverified_artifact) if self._cache else self.unverified_artifact()
        digest = hashlib.sha256(data).hexdigest()
        if digest != registered:
            raise CorruptArtifact(
                f"{where} was changed: its {len(data)} bytes have sha256 {digest[:12]}, "
                f"but {registered[:12]} was registered",
                REMEDY,
            )
        self._artifact = data
        return data

    def unverified_artifact(self) -> bytes:
        """Read the artifact, whatever it is.

        Raises:
            CorruptArtifact: The file is missing, cannot be read, or is too large.
            RegistryUnreachable: The registry does not answer.
        """
        data = self._read(self.artifact_name, z_file.LARGEST)
        if data is None:
            where = self._where(self.artifact_name)
            raise CorruptArtifact(f"{where} cannot be read{self._place()}: there is no such file", REMEDY)
        return data

    def card(self) -> bytes | None:
        """Read the model card; None for versions of older registries."""
        return self._read(card.FILE, LARGEST_BESIDE)

    def signatures(self) -> dict[str, bytes]:
        """Read the signatures: {path beside the artifact: signature}, sorted."""
        found = {}
        for path in sorted(self._sizes(SIGNATURES)):
            if (data := self._read(path, LARGEST_BESIDE)) is not None:
                found[path] = data
        return found

    def signed(self) -> SignedFiles | None:
        """Read everything that signatures are of, with the signatures; None if there are none."""
        signatures = self.signatures()
        if not signatures:
            return None
        described = self.card()
        return SignedFiles(self.artifact(), signatures | ({} if described is None else {card.FILE: described}))

    def write(self, path: str, data: bytes) -> None:
        """Store a file beside the artifact, whole or not at all."""
        with self._connection.answering(f"store {path} of {self.version.qualified}", "write"):
            store_file(self._connection, self.version.run_id, f"{self._folder}/{path}", data)

    def _where(self, path: str) -> str:
        kind = "artifact " if path == self.artifact_name else ""
        return f"{kind}{self._folder}/{path} of {self.version.qualified}"

    def _read(self, path: str, most: int) -> bytes | None:
        """Read a file of at most so many bytes; None if there is none."""
        full, where, run = f"{self._folder}/{path}", self._where(path), self.version.run_id
        try:
            sizes = self._sizes(path.rpartition("/")[0])
            if path not in sizes:
                return None
            # Before it is read: a file of any size may have been put there.
            if (size := sizes[path]) > most:
                raise CorruptArtifact(f"{where} has {size:,} bytes, more than {most:,}", REMEDY)
            file = self._connection.local_file(run, full)
            if file is not None and file.exists():
                return file.read_bytes()
            with tempfile.TemporaryDirectory() as temporary:
                return Path(self._connection.client.download_artifacts(run, full, temporary)).read_bytes()
        except library_errors(OSError) as error:
            if status_of(error) in (401, 403):
                raise
            self._connection.probe()
            raise CorruptArtifact(
                f"{where} cannot be read{self._place()}: {self._connection.reason(error)}", REMEDY
            ) from None

    def _place(self) -> str:
        """Return where the registry's records have the version's artifacts, for an error."""
        with suppress(*library_errors()):
            return f" from {self._connection.client.get_run(self.version.run_id).info.artifact_uri}"
        return ""

    def _sizes(self, folder: str) -> dict[str, int]:
        """Return {path beside the artifact: bytes} of the files in a folder beside the artifact."""
        full = f"{self._folder}/{folder}".rstrip("/")
        local = self._connection.local_file(self.version.run_id, full)
        if local is not None and local.is_dir():
            names = {f"{full}/{file.name}": file.stat().st_size for file in local.iterdir() if file.is_file()}
        else:
            listed = self._connection.client.list_artifacts(self.version.run_id, full)
            names = {item.path: item.file_size or 0 for item in listed if not item.is_dir}
        return {name.removeprefix(f"{self._folder}/"): size for name, size in names.items()}
