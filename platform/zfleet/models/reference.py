"""A base by reference: what names it, and what its files are. It is small, and travels in any message.

A worker finds the files by it (``zfleet.models.places``); neither PyTorch nor transformers is imported.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from zfleet.config.specs import BaseSpec


@dataclass(frozen=True)
class StoredFile:
    """A file of a folder.

    Attributes:
        name: Its name there.
        size: In bytes.
        sha256: Of its content.
    """

    name: str
    size: int
    sha256: str

    @property
    def partial(self) -> str:
        """The name under which it arrives; what has its own name is complete."""
        return f".{self.name}.part"


@dataclass(frozen=True)
class FolderReference:
    """A folder on the node that a base comes from.

    Attributes:
        what: Names it in messages.
        path: Absolute, on that node.
        files: Those that count, in the order in which they are fetched.
    """

    what: str
    path: str
    files: tuple[StoredFile, ...]

    @property
    def digest(self) -> str:
        """Identity of names and contents."""
        lines = (f"{file.name}\0{file.sha256}\0" for file in sorted(self.files, key=lambda file: file.name))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class BaseReference:
    """A base and its factors, which any node can find by this.

    Attributes:
        name: What people call the base.
        fingerprint: Its fingerprint.
        spec: How it computes, and which matrices are decomposed.
        context: The longest sequence the base takes, in tokens.
        factors_digest: Identity of the factors.
        model: Its folder.
        factors: The folder of its factors.
        revision: The commit that was fetched, if ``spec.model`` is a hub id.
    """

    name: str
    fingerprint: str
    spec: BaseSpec
    context: int
    factors_digest: str
    model: FolderReference
    factors: FolderReference
    revision: str | None
