"""Images of a dataset that names them in its rows and keeps them beside."""

from __future__ import annotations

from pathlib import Path

from zfleet.errors import TaskError
from zfleet.tasks.rows import Row

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class ImageFolder:
    """The images in a folder and below it, by their names without suffix."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = {path.stem: path for path in sorted(root.rglob("*")) if path.suffix.lower() in _SUFFIXES}

    def find(self, name: str, row: Row) -> str:
        """The path of a row's image.

        Raises:
            TaskError: There is none; names the row's file and place.
        """
        if name not in self._files:
            raise TaskError(
                f"{row.where}: its image {name} is not below {self._root}, which has {len(self._files)} images",
                "put the dataset's images beside its rows, or leave out rows without",
            )
        return str(self._files[name].absolute())
