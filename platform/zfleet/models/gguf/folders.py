"""Where converted bases lie in the cache, and the record of where each comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zfleet.errors import BaseModelError
from zfleet.paths import cache_root

SUFFIX = ".gguf"
ORIGIN = "origin.json"

_PREFIX = "gguf-"
_VERSION = 1
"""Part of the folder's name: raised when the same file becomes other weights, another config or tokenizer."""


@dataclass(frozen=True)
class Origin:
    """Where a converted base comes from; stored beside it, no part of its fingerprint.

    Attributes:
        file: Name of the GGUF file.
        sha256: Of the file.
        architecture: In GGUF's words.
        name: The model's, as the file says; None if it does not.
        licence: Of the model, as the file says; None if it does not.
        types: {type of tensors: how many}.
        parameters: How many numbers the base has.
        fingerprint: Of the folder, when it was written.
    """

    file: str
    sha256: str
    architecture: str
    name: str | None
    licence: str | None
    types: Mapping[str, int]
    parameters: int
    fingerprint: str


def is_gguf(path: str) -> bool:
    """Whether a path is that of a GGUF file, by its name."""
    return path.lower().endswith(SUFFIX)


def bases_root() -> Path:
    """Return the folder of fetched and converted bases. It may not exist."""
    return cache_root() / "bases"


def converted_folder(sha256: str) -> Path:
    """Name the folder of a GGUF file's base, by the file's digest. It may not exist."""
    return bases_root() / f"{_PREFIX}{sha256[:32]}-{_VERSION}"


def converted_folders() -> list[Path]:
    """List the folders of all converted bases."""
    return sorted(bases_root().glob(f"{_PREFIX}*-{_VERSION}"))


def read_origin(folder: Path) -> Origin:
    """Read where a converted base comes from.

    Raises:
        BaseModelError: The record is missing or damaged.
    """
    path = folder / ORIGIN
    try:
        return Origin(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise BaseModelError(f"{path} cannot be read: {error}", f"delete {folder} and convert again") from error
