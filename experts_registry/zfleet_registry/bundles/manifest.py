"""What a bundle says of itself: its versions, their provenance, and the digest of each file."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from zfleet_registry import z_file
from zfleet_registry.provenance import card
from zfleet_registry.references import model_name
from zfleet_registry.version_files import LARGEST_BESIDE, SIGNATURES

MANIFEST = "bundle.json"
LARGEST_LOG = 2**28
"""Bytes of a log: some hundred thousand entries."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BundledFile(BaseModel):
    """A file beside a signed artifact: its card, or a signature.

    Attributes:
        path: Beside the artifact.
        sha256: Of the file.
        size: In bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, Field(pattern=rf"^({re.escape(card.FILE)}|{SIGNATURES}/[0-9a-f]{{16}}\.json)$")]
    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=LARGEST_BESIDE)]

    @property
    def member(self) -> str:
        """The name of the file in the bundle."""
        return f"files/{self.sha256}.{self.path.rpartition('.')[2]}"


class BundledVersion(BaseModel):
    """One version. Bases are named by slug and fingerprint; their weights are not in a bundle.

    Attributes:
        name: The expert or the dispatcher.
        base_slug: The base.
        version: Its number in the registry that it comes from.
        aliases: Those that it had there, for people: an import sets none.
        created: When it was registered there (UTC).
        provenance: As ``Provenance.to_strings`` writes it.
        sha256: Of its file.
        size: Of its file, in bytes.
        beside: Its card and its signatures, if it is signed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    base_slug: str
    version: Annotated[int, Field(ge=1)]
    aliases: tuple[str, ...]
    created: datetime
    provenance: dict[str, str]
    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=z_file.LARGEST)]
    beside: tuple[BundledFile, ...] = ()

    @property
    def reference(self) -> str:
        """The reference in the registry that it comes from: ``math/3``."""
        return f"{self.name}/{self.version}"

    @property
    def qualified(self) -> str:
        """The reference qualified by the base."""
        return f"{model_name(self.base_slug, self.name)}/{self.version}"

    @property
    def member(self) -> str:
        """The name of its file in the bundle."""
        return f"files/{self.sha256}.safetensors"


class BundledLog(BaseModel):
    """The log of one expert: all of it, up to the moment of the export.

    Attributes:
        expert: The registered model: ``lab-1a2b3c4d.math``.
        sha256: Of its file.
        size: Of its file, in bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    expert: str
    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=LARGEST_LOG)]

    @property
    def member(self) -> str:
        """The name of its file in the bundle."""
        return f"files/{self.sha256}.jsonl"


class Manifest(BaseModel):
    """The file ``bundle.json``.

    Attributes:
        format: Of the bundle.
        versions: Parents before what was made from them.
        logs: One for each expert that has a log.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["zfleet-bundle/1"] = "zfleet-bundle/1"
    versions: Annotated[tuple[BundledVersion, ...], Field(min_length=1)]
    logs: tuple[BundledLog, ...] = ()
