"""The safetensors file of an expert that says where it is from: its z, its name and its provenance."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zfleet.errors import CorruptArtifact, FormatError, RegistryError, ZfleetError
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
        extra = _extra(data)
        if "provenance" not in extra:
            return z, str(extra.get("name", "")), Provenance.of(z, task="imported")
        provenance = Provenance.from_strings(json.loads(extra["provenance"]))
        provenance.check(z)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"the provenance in {source} is damaged: {error!r}", remedy) from error
    except RegistryError as error:
        raise FormatError(f"the provenance in {source} is of another z: {error.message}", remedy) from error
    return z, str(extra.get("name", "")), provenance


def read_file(file: Path, refuse: type[ZfleetError]) -> bytes:
    """Read a file that is small enough to be an expert's; its size is looked at first.

    Args:
        file: The file.
        refuse: The class of the error.

    Raises:
        ZfleetError: Of that class: the file cannot be read, or is too large.
    """
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise refuse(f"{file} has {size:,} bytes, more than {LARGEST:,}", "give a file with a z")
        return file.read_bytes()
    except OSError as error:
        raise refuse(f"{file} cannot be read: {error.strerror}", "check the path") from error


def read(file: Path) -> tuple[ZVector, str, Provenance]:
    """Read an expert's file: its z, its name, empty if the file has none, and its provenance, which names the file.

    Raises:
        InvalidZ: No z-vector's file, or damaged.
        FormatError: It cannot be read, or its provenance is unreadable, of another z, or of another base.
    """
    data = read_file(file, FormatError)
    z, full, provenance = from_bytes(data, str(file))
    origin = f"{file.name} sha256:{hashlib.sha256(data).hexdigest()}"
    return z, full, replace(provenance, imported_from=provenance.imported_from or origin)


def read_head(file: Path) -> bytes:
    """Read the head of a safetensors file, for ``name_in``; empty if it is none."""
    try:
        with file.open("rb") as opened:
            size = opened.read(8)
            length = int.from_bytes(size, "little")
            return size + opened.read(length) if length <= _LONGEST_HEAD else b""
    except OSError:
        return b""


def read_origin(file: Path) -> tuple[str, Provenance, Registration | None]:
    """Read the name, the provenance and the registration from an expert's file, without a registry.

    Raises:
        CorruptArtifact: The file cannot be read, or was not written by a registry.
    """
    data = read_file(file, CorruptArtifact)
    try:
        extra = _extra(data)
        made = extra.get("registration")
        provenance = Provenance.from_strings(json.loads(extra["provenance"]))
        return extra["name"], provenance, None if made is None else Registration.from_json(made)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptArtifact(
            f"{file} does not say where it is from: {type(error).__name__}: {error}",
            "give the file of a registered version",
        ) from error


def name_in(data: bytes) -> str:
    """Return the name, qualified by the base, that a file of an expert or a dispatcher has in its head.

    Empty if it has none: older registries did not write it.
    """
    try:
        return str(_extra(data).get("name", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _extra(data: bytes) -> dict[str, str]:
    """Return what a safetensors file of ours says beside its content.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is no such file.
    """
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    extra: dict[str, str] = json.loads(header["__metadata__"].get("extra", "{}"))
    return extra
