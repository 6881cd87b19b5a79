"""Describe a public dataset: where its rows are, and how a row becomes a sample."""

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
"""The fields of a row that a prompt can name; graders read ``answer``."""


@dataclass(frozen=True)
class Dataset:
    """A public dataset.

    Attributes:
        name: The dataset's name in specs.
        fields: Turns a row into its fields; raises ``KeyError``, ``TypeError`` or ``ValueError`` on a broken row.
        files: The authors' file names of each side; the first that exists is read. A side without files is split off
            the other one by digest.
        hub: Id and configuration on the Hugging Face hub; None if the hub has no rows of this form.
        splits: The hub's name for each side.
        keep: Decides whether a row belongs to a side, if files do not tell.
        image: The field with the name of a row's image, a file below the folder; empty if rows have no images.
    """

    name: str
    fields: Callable[[Mapping[str, Any]], Fields]
    files: Mapping[Side, tuple[str, ...]]
    hub: tuple[str, str | None] | None = None
    splits: Mapping[Side, str] = field(default_factory=dict)
    keep: Callable[[Mapping[str, Any], Side], bool] = field(default=lambda row, side: True)
    image: str = ""

    def read(self, row: Row) -> Fields:
        """Return the fields of a row.

        Raises:
            TaskError: The row is broken; names file and line.
        """
        try:
            return self.fields(row.data)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise TaskError(
                f"{row.where} is not a row of {self.name}: {reason}", "correct the row, or give the dataset's own file"
            ) from error


def identity(name: str, fields: Fields) -> str:
    """Return a sample's id: a digest of all its fields."""
    return hashlib.sha256(json.dumps([name, dict(fields)], sort_keys=True).encode()).hexdigest()[:16]


def text(row: Mapping[str, Any], key: str) -> str:
    """Return a field that must be a string and not blank.

    Raises:
        KeyError: The field is missing.
        ValueError: The field is not a string, or blank.
    """
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is {value!r}: it must be a string that is not blank")
    return value
