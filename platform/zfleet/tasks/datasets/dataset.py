"""What a public dataset is to zfleet: where its rows lie, and how one of them becomes a sample."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zfleet.errors import TaskError
from zfleet.tasks.rows import Row

Side = Literal["train", "test"]

Fields = Mapping[str, str]
"""What a prompt can name, and for graders ``answer``."""


@dataclass(frozen=True)
class Dataset:
    """A public dataset.

    Attributes:
        name: What specs call it.
        fields: From a row to its fields; raises ``KeyError``, ``TypeError`` or ``ValueError`` on a broken one.
        files: The names that the authors gave their files, by side: the first that is there is read. A side that has
            none is cut from the other by digest.
        hub: Id and configuration on the Hugging Face hub; None where it has no rows of this form.
        splits: The hub's name of each side.
        keep: Which rows belong to a side, where files do not tell.
        image: The field that names a row's image, a file of that name below the folder; empty: rows have none.
    """

    name: str
    fields: Callable[[Mapping[str, Any]], Fields]
    files: Mapping[Side, tuple[str, ...]]
    hub: tuple[str, str | None] | None = None
    splits: Mapping[Side, str] = field(default_factory=dict)
    keep: Callable[[Mapping[str, Any], Side], bool] = field(default=lambda row, side: True)
    image: str = ""

    def read(self, row: Row) -> Fields:
        """The fields of a row.

        Raises:
            TaskError: The row is broken; names file and line.
        """
        try:
            return self.fields(row.data)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise TaskError(
                f"{row.where} is no row of {self.name}: {reason}", "mend the row, or give the dataset's own file"
            ) from error


def identity(name: str, fields: Fields) -> str:
    """Of a sample: a digest of all it holds."""
    return hashlib.sha256(json.dumps([name, dict(fields)], sort_keys=True).encode()).hexdigest()[:16]


def text(row: Mapping[str, Any], key: str) -> str:
    """A field that must be a string and not blank.

    Raises:
        KeyError: It is missing.
        ValueError: It is something else.
    """
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is {value!r}, which is no text")
    return value
