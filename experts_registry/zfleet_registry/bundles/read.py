"""Reading a bundle from anywhere: nothing is unpacked, and every file is verified before any is used.

Members are read into memory by the names that follow from their digests. A path, a link or a compressed bomb in the
file has no effect, but is refused.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from zfleet.adapt.stored import StoredDispatcher
from zfleet.errors import DispatcherError, FormatError, InvalidZ, RegistryError
from zfleet.svf.zvector import ZVector
from zfleet_registry.bundles.manifest import MANIFEST, BundledVersion, Manifest
from zfleet_registry.provenance import Provenance
from zfleet_registry.references import check_name, check_slug, split_slug

_LARGEST_MANIFEST = 2**26
_REMEDY = "copy the bundle again, or export it again"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was verified.

    Attributes:
        path: The file.
        manifest: What it says of itself.
        sha256: Of the manifest.
    """

    path: Path
    manifest: Manifest
    sha256: str

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Verify a whole bundle: its list of files, their sizes and digests, and every expert in them.

        Raises:
            FormatError: It cannot be read, or holds anything that it should not; says what.
        """
        data = _read(path, MANIFEST, _LARGEST_MANIFEST)
        try:
            manifest = Manifest.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise FormatError(f"{MANIFEST} of {path} cannot be used: {where}: {first['msg']}", _REMEDY) from None
        bundle = cls(path, manifest, hashlib.sha256(data).hexdigest())
        expected = {MANIFEST, *(one.member for one in manifest.versions)}
        with _opened(path) as file:
            names = [info.filename for info in file.infolist()]
        if len(names) != len(set(names)) or set(names) != expected:
            odd = sorted(set(names) ^ expected) or sorted(name for name in names if names.count(name) > 1)
            raise FormatError(f"{path} lacks {odd[0]!r}, or holds it against its list or twice", _REMEDY)
        for version in manifest.versions:
            bundle.content(version)
        return bundle

    def content(self, version: BundledVersion) -> tuple[ZVector | StoredDispatcher, Provenance]:
        """Read one version and verify it completely.

        Raises:
            FormatError: The file is damaged, or contradicts its provenance or its name.
        """
        where = f"{version.qualified} in {self.path}"
        data = _read(self.path, version.member, version.size)
        if len(data) != version.size or hashlib.sha256(data).hexdigest() != version.sha256:
            raise FormatError(f"{where} was changed: its bytes have another digest than listed", _REMEDY)
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

    @cached_property
    def origin(self) -> str:
        """What provenance says of an import from it."""
        return f"{self.path.name} sha256:{self.sha256}"


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} is truncated, damaged or no bundle: {error}", _REMEDY) from error


def _read(path: Path, member: str, most: int) -> bytes:
    """Read one member of at most so many bytes."""
    with _opened(path) as file:
        try:
            info = file.getinfo(member)
        except KeyError:
            raise FormatError(f"{path} holds no {member}", _REMEDY) from None
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise FormatError(f"{member} in {path} is compressed or encrypted, as no bundle's files are", _REMEDY)
        if info.file_size > most:
            raise FormatError(f"{member} in {path} has {info.file_size:,} bytes, more than {most:,}", _REMEDY)
        try:
            return file.read(info)
        except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
            raise FormatError(f"{member} in {path} is damaged: {error}", _REMEDY) from error
