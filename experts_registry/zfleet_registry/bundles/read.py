"""Reading a bundle from anywhere: nothing is unpacked, and every file is verified before any is used.

Members are read into memory by the names that follow from their digests. A path, a link or a compressed bomb in the
file has no effect, but is refused.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import DispatcherError, FormatError, InvalidZ, RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry.bundles.logs import read_log
from zfleet_registry.bundles.manifest import MANIFEST, BundledFile, BundledLog, BundledVersion, Manifest
from zfleet_registry.log import Break, Entry
from zfleet_registry.provenance import Provenance
from zfleet_registry.references import check_name, check_slug, split_slug
from zfleet_registry.version_files import SignedFiles

_LARGEST_MANIFEST = 2**26
_REMEDY = "copy the bundle again, or export it again"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that was verified and is open.

    Attributes:
        path: The file.
        manifest: What it says of itself.
        sha256: Of the manifest.
    """

    path: Path
    manifest: Manifest
    sha256: str
    _file: zipfile.ZipFile

    @property
    def origin(self) -> str:
        """What provenance says of an import from it."""
        return f"{self.path.name} sha256:{self.sha256}"

    def content(self, version: BundledVersion) -> tuple[ZVector | StoredDispatcher, Provenance]:
        """Read one version and verify it completely.

        Raises:
            FormatError: The file is damaged, or contradicts its provenance or its name.
        """
        where = f"{version.qualified} in {self.path}"
        data = self._verified(version, where)
        try:
            check_name(version.name)
            check_slug(version.base_slug)
            provenance = Provenance.from_strings(version.provenance)
            read = StoredDispatcher.from_bytes if provenance.kind == "dispatcher" else ZVector.from_bytes
            content: ZVector | StoredDispatcher = read(data, where)
            provenance.check(content)
        except (InvalidZ, DispatcherError, RegistryError) as error:
            raise FormatError(f"{where} cannot be used: {error.message}", _REMEDY) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"the provenance of {where} is damaged: {error!r}", _REMEDY) from error
        digits = split_slug(version.base_slug)[1]
        if not provenance.base.startswith(digits):
            raise FormatError(f"{where} belongs to base {provenance.base[:12]}, not to {version.base_slug}", _REMEDY)
        return content, provenance

    def signed(self, version: BundledVersion) -> SignedFiles | None:
        """Read a version's files as they were signed; None if they were not.

        Raises:
            FormatError: A file is damaged.
        """
        if not version.beside:
            return None
        where = f"{version.qualified} in {self.path}"
        beside = {file.path: self._verified(file, f"{file.path} of {where}") for file in version.beside}
        return SignedFiles(self._verified(version, where), beside)

    def log(self, expert: str) -> tuple[list[Entry | Break], Break | None]:
        """Read the log of an expert, as ``read_log``.

        Args:
            expert: Its registered model: ``lab-1a2b3c4d.math``.

        Raises:
            FormatError: The bundle has no such log, or it is damaged.
        """
        logs = {log.expert: log for log in self.manifest.logs}
        if expert not in logs:
            known = ", ".join(sorted(logs)) or "none"
            raise FormatError(f"{self.path} has no log of {expert}", f"it has logs of: {known}")
        where = f"the log of {expert} in {self.path}"
        return read_log(self._verified(logs[expert], where), where)

    def _verified(self, listed: BundledVersion | BundledFile | BundledLog, where: str) -> bytes:
        data = _read(self._file, listed.member, listed.size)
        if len(data) != listed.size or hashlib.sha256(data).hexdigest() != listed.sha256:
            raise FormatError(f"{where} was changed: its bytes have another digest than listed", _REMEDY)
        return data


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle and verify all of it: its list of files, their sizes and digests, and every expert in them.

    Raises:
        FormatError: It cannot be read, or holds anything that it should not; says what.
    """
    try:
        file = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} is truncated, damaged or no bundle: {error}", _REMEDY) from error
    with file:
        data = _read(file, MANIFEST, _LARGEST_MANIFEST)
        try:
            manifest = Manifest.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise FormatError(f"{MANIFEST} of {path} cannot be used: {where}: {first['msg']}", _REMEDY) from None
        beside = (one.member for version in manifest.versions for one in version.beside)
        logs = (log.member for log in manifest.logs)
        _check_names(file, {MANIFEST, *(one.member for one in manifest.versions), *beside, *logs})
        bundle = Bundle(path, manifest, hashlib.sha256(data).hexdigest(), file)
        for version in manifest.versions:
            bundle.content(version)
            bundle.signed(version)
        for log in manifest.logs:
            bundle.log(log.expert)
        yield bundle


def _check_names(file: zipfile.ZipFile, expected: set[str]) -> None:
    names = Counter(info.filename for info in file.infolist())
    odd = [name for name, count in names.items() if count > 1 or name not in expected]
    if odd or (odd := sorted(expected - names.keys())):
        raise FormatError(f"{file.filename} lacks {odd[0]!r}, or holds it against its list or twice", _REMEDY)


def _read(file: zipfile.ZipFile, member: str, most: int) -> bytes:
    """Read one member of at most so many bytes."""
    where = f"{member} in {file.filename}"
    try:
        info = file.getinfo(member)
    except KeyError:
        raise FormatError(f"{file.filename} holds no {member}", _REMEDY) from None
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise FormatError(f"{where} is compressed or encrypted, as no bundle's files are", _REMEDY)
    if info.file_size > most:
        raise FormatError(f"{where} has {info.file_size:,} bytes, more than {most:,}", _REMEDY)
    try:
        return file.read(info)
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise FormatError(f"{where} is damaged: {error}", _REMEDY) from error
