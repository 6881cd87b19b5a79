"""Images of a dataset that names them in its rows and keeps them beside."""

from __future__ import annotations

import os
from pathlib import Path

from zfleet.errors import TaskError
from zfleet.tasks.rows import Row

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class ImageFolder:
    """The images in a folder and below it, by their names without suffix."""

    def __init__(self, root: Path) -> None:
        """Look for images.

        Raises:
            TaskError: Two have one name.
        """
        self._root = root
        self._files: dict[str, Path] = {}
        # Links are followed: large sets of images lie elsewhere.
        for folder, _, names in os.walk(root, followlinks=True):
            for path in (Path(folder, name) for name in names):
                if path.suffix.lower() not in _SUFFIXES:
                    continue
                other = self._files.setdefault(path.stem, path)
                if other != path:
                    raise TaskError(f"images {other} and {path} have one name", "leave one of them")

    def find(self, name: str, row: Row) -> str:
        """The path of a row's image.

        Raises:
            TaskError: There is none; names the row's file and place.
        """
        stem = Path(name).stem if Path(name).suffix.lower() in _SUFFIXES else name
        if stem not in self._files:
            raise TaskError(
                f"{row.where}: its image {name} is not below {self._root}, which has {len(self._files)} images",
                "put the dataset's images beside its rows, or leave out rows without",
            )
        return str(self._files[stem].absolute())
