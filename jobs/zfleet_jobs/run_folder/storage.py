"""Files of a run, in a folder or under a URI: each is there whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from zfleet.errors import JobError
from zfleet.files import write_atomic


@dataclass(frozen=True)
class Storage:
    """A folder that the driver and all workers share.

    Attributes:
        place: An absolute path, or a URI.
    """

    place: str

    @classmethod
    def at(cls, storage: str, *names: str) -> Storage:
        """Open a folder of a spec's ``storage``."""
        root = storage.rstrip("/") if "://" in storage else str(Path(storage).resolve())
        return cls("/".join((root, *names)))

    @property
    def local(self) -> Path | None:
        """The folder; None for a URI."""
        return None if "://" in self.place else Path(self.place)

    def folder(self, name: str) -> Storage:
        """Open a folder in this one."""
        return Storage(f"{self.place}/{name}")

    def put(self, name: str, data: bytes) -> None:
        """Write a file.

        Raises:
            JobError: It cannot be written, for example because the disk is full; the old one stays.
        """
        with writing(self.place):
            if self.local is not None:
                write_atomic(self.local / name, data)
                return
            system, root = fs.FileSystem.from_uri(self.place)
            system.create_dir(root, recursive=True)
            unfinished = f"{root}/.{uuid.uuid4().hex}"
            try:
                with system.open_output_stream(unfinished) as stream:
                    stream.write(data)
                system.move(unfinished, f"{root}/{name}")
            except OSError:
                with suppress(OSError):
                    system.delete_file(unfinished)
                raise

    def get(self, name: str) -> bytes | None:
        """Read a file; None if there is none."""
        system, root = fs.FileSystem.from_uri(self.place)
        try:
            with system.open_input_stream(f"{root}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """Delete a file, if it is there.

        Raises:
            JobError: It stays.
        """
        system, root = fs.FileSystem.from_uri(self.place)
        with writing(self.place), suppress(FileNotFoundError):
            system.delete_file(f"{root}/{name}")

    def names(self) -> list[str]:
        """List files and folders in here, sorted, without those that are being written."""
        system, root = fs.FileSystem.from_uri(self.place)
        infos = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
        return sorted(info.base_name for info in infos if not info.base_name.startswith("."))


@contextmanager
def writing(place: str) -> Iterator[None]:
    """Raise an error with a remedy if the block cannot write.

    Raises:
        JobError: Names the folder and the system's reason.
    """
    try:
        yield
    except OSError as error:
        raise JobError(
            f"{place} cannot be written: {error.strerror or error}",
            "make room there, or correct its permissions; the same command goes on from the newest checkpoint",
        ) from error
