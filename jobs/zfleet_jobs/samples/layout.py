"""Folders and columns of samples: ``STORAGE/samples/run=R/expert=E/digest=D/step=000001/worker-0.parquet``.

Folders of this form are Hive partitions: pyarrow, DuckDB and pandas read the whole of ``STORAGE/samples`` as one table
in which run, expert, digest and step are columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

FOLDER = "samples"
"""Beside the folders of a storage that Ray Train writes, whose files are no Parquet."""

SCHEMA = pa.schema(
    [
        ("sample", pa.string()),
        ("group", pa.int64()),
        ("prompt", pa.string()),
        ("images", pa.list_(pa.string())),
        ("completion", pa.string()),
        ("tokens", pa.int64()),
        ("finish", pa.string()),
        ("logprob", pa.float64()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("extracted", pa.string()),
        ("reason", pa.string()),
        ("parts", pa.string()),
        ("z", pa.string()),
        ("staleness", pa.int64()),
    ]
)
"""``parts``: JSON, of a reward of several parts the value of each. ``logprob``: of the whole completion, as the engine
sampled it. ``staleness``: steps between the z that it was sampled under, ``z``, and the one that learned from it.
``z`` is what the engine had in its row; see ``verify``."""


_BEGAN_AT, _REACHED = b"zfleet.began_at", b"zfleet.reached"


@dataclass(frozen=True)
class Move:
    """What a step did to an expert's z, as the learner says it. Kept as metadata of the step's files.

    Attributes:
        began_at: Digest of the z at which the step began.
        reached: Of the z that it led to.
    """

    began_at: str
    reached: str

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """What a file says of it."""
        return {_BEGAN_AT: self.began_at.encode(), _REACHED: self.reached.encode()}

    @classmethod
    def of(cls, metadata: Mapping[bytes, bytes] | None) -> Move | None:
        """Parse what a file says; None if it says nothing: the step was not taken, or an older version wrote it."""
        if metadata is None or not {_BEGAN_AT, _REACHED} <= metadata.keys():
            return None
        return cls(metadata[_BEGAN_AT].decode(), metadata[_REACHED].decode())


@dataclass(frozen=True, order=True)
class Training:
    """One expert trained under one run's name.

    Attributes:
        run: The run, as its spec names it.
        expert: The expert's name.
        digest: The beginning of its plan's digest: the same run and expert with other settings is another training.
    """

    run: str
    expert: str
    digest: str

    @property
    def folder(self) -> str:
        """Of its samples, within ``STORAGE/samples``."""
        return f"run={self.run}/expert={self.expert}/digest={self.digest}"

    def folder_in(self, storage: str) -> str:
        """Name the folder of its samples in a storage: a path or a URI, as the storage is."""
        return f"{storage}/{FOLDER}/{self.folder}"


@dataclass(frozen=True, order=True)
class SampleFile:
    """One worker's samples of one step."""

    training: Training
    step: int
    path: str


def in_step(folder: str, step: int) -> str:
    """Name the folder of a step, counted from 1, in that of its training."""
    return f"{folder}/step={step:06d}"


def is_sample_file(info: fs.FileInfo) -> bool:
    """Whether this is what a worker wrote: names that begin with a dot are unfinished."""
    return bool(info.is_file and info.extension == "parquet" and not info.base_name.startswith("."))


def sample_file(root: str, path: str) -> SampleFile | None:
    """Parse a path within ``root``, a ``STORAGE/samples``; None if its folders are not those above."""
    *folders, _ = path.removeprefix(f"{root}/").split("/")
    keys = dict(folder.split("=", 1) for folder in folders if "=" in folder)
    if list(keys) != ["run", "expert", "digest", "step"] or not keys["step"].isdecimal():
        return None
    return SampleFile(Training(keys["run"], keys["expert"], keys["digest"]), int(keys["step"]), path)
