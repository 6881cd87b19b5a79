"""The safetensors file of an expert that says where it is from: its z, its name and its provenance."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zfleet.errors import CorruptArtifact, FormatError, RegistryError
from zfleet.files import read_or
from zfleet.svf.zvector import ZVector
from zfleet_registry.provenance import Provenance, Registration
from zfleet_registry.references import model_name

if TYPE_CHECKING:
    from zfleet_registry.version import ExpertVersion

LARGEST = 2**30
"""Bytes. The largest bases have 60 MB of z; whole models are not read to find out that they are."""

_LONGEST_HEAD = 100_000_000
"""Bytes that safetensors allows."""


def metadata(model: str, provenance: Provenance, registration: Registration | None = None) -> dict[str, str]:
    """Return what a file says of its origin, beside its content.

    Args:
        model: The name, qualified by the base: ``lab-1a2b3c4d.math``.
        provenance: Of the content.
        registration: Who registered it, and when; None if nobody did.
    """
    said = {"name": model, "provenance": json.dumps(provenance.to_strings(), sort_keys=True)}
    return said if registration is None else said | {"registration": registration.to_json()}


def to_bytes(z: ZVector, version: ExpertVersion) -> bytes:
    """Serialise the z of a version, with all that is known of its origin in the file's metadata."""
    return z.to_bytes(metadata(model_name(version.base_slug, version.name), version.provenance, version.registration))


def from_bytes(data: bytes, source: str) -> tuple[ZVector, str, Provenance]:
    """Read what ``to_bytes`` wrote, and verify the z.

    Args:
        data: The file.
        source: Names it in errors.

    Returns:
        The z, its name, empty if the file has none, and its provenance, that of an import if the file has none.

    Raises:
        InvalidZ: No z-vector's file, or damaged.
        FormatError: Its provenance is unreadable, or of another z.
    """
    z = ZVector.from_bytes(data, source)
    remedy = "export the expert again"
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        extra = json.loads(header["__metadata__"].get("extra", "{}"))
        if "provenance" not in extra:
            return z, str(extra.get("name", "")), Provenance.of(z, task="imported")
        provenance = Provenance.from_strings(json.loads(extra["provenance"]))
        provenance.check(z)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"the provenance in {source} is damaged: {error!r}", remedy) from error
    except RegistryError as error:
        raise FormatError(f"the provenance in {source} is of another z: {error.message}", remedy) from error
    return z, str(extra.get("name", "")), provenance


def read(file: Path) -> tuple[ZVector, str, Provenance]:
    """Read an expert's file: its z, its name, empty if the file has none, and its provenance, which names the file.

    Raises:
        InvalidZ: No z-vector's file, or damaged.
        FormatError: It cannot be read, or its provenance is unreadable, of another z, or of another base.
    """
    try:
        size = file.stat().st_size
    except OSError as error:
        raise FormatError(f"{file} cannot be read: {error.strerror}", "check the path") from error
    if size > LARGEST:
        raise FormatError(f"{file} has {size:,} bytes, more than any expert", "give the z of an expert")
    data = read_or(file, lambda error: FormatError(f"{file} cannot be read: {error.strerror}", "check the path"))
    z, full, provenance = from_bytes(data, str(file))
    origin = f"{file.name} sha256:{hashlib.sha256(data).hexdigest()}"
    return z, full, replace(provenance, imported_from=provenance.imported_from or origin)


def name_in(file: Path) -> str:
    """Return the name in the head of a file, without reading or verifying the rest; empty if it says none."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length if length <= _LONGEST_HEAD else 0))
        return str(json.loads(header["__metadata__"]["extra"])["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_origin(file: Path) -> tuple[str, Provenance, Registration | None]:
    """Read the name, the provenance and the registration from an expert's file, without a registry.

    Raises:
        CorruptArtifact: The file cannot be read, or was not written by a registry.
    """
    data = read_or(file, lambda error: CorruptArtifact(f"{file} cannot be read: {error.strerror}", "check the path"))
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        extra = json.loads(header["__metadata__"]["extra"])
        made = extra.get("registration")
        provenance = Provenance.from_strings(json.loads(extra["provenance"]))
        return extra["name"], provenance, None if made is None else Registration.from_json(made)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise CorruptArtifact(
            f"{file} does not say where it is from: {type(error).__name__}: {error}",
            "give the file of a registered version",
        ) from error
