"""The answers of a run, a Parquet file for each cell: all that its tables and pictures are computed from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from zfleet.evaluate.answering import Answer
from zfleet.evaluate.cells import Cell, CellKey, Mixture, Numbers, WayKind, mixture_from
from zfleet.evaluate.first_pass import FirstPass
from zfleet.tasks.task import Sample
from zfleet_jobs.evaluate.parquet import read_rows, write_rows
from zfleet_jobs.run_folder.storage import Storage

FOLDER = "answers"

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("way", pa.string()),
        ("shots", pa.int64()),
        ("draw", pa.int64()),
        ("seed", pa.int64()),
        ("kind", pa.string()),
        ("own_task", pa.bool_()),
        ("sample", pa.string()),
        ("row", pa.string()),
        ("cluster", pa.string()),
        ("own", pa.string()),
        ("z", pa.string()),
        ("mixture", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("finish", pa.string()),
        ("tokens", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("reward", pa.float64()),
        ("extracted", pa.string()),
        ("reason", pa.string()),
        ("parts", pa.string()),
        ("first_tokens", pa.int64()),
        ("first_seconds", pa.float64()),
        ("label", pa.string()),
        ("named", pa.string()),
        ("confidence", pa.float64()),
        ("probabilities", pa.string()),
        ("dispatch", pa.string()),
    ]
)
"""``row``: digest of prompt and answer. ``own``: the expert of the prompt's kind as the row's fields say it, an empty
text for the base, null if unknown. ``mixture``, ``parts``, ``probabilities``: JSON. ``prompt``: as it was put to the
engine. ``first_...``, ``label``, ``named``, ``confidence``, ``dispatch``: of the first pass. Of LoRA, whose
answers an experiment gave, there are rewards and no texts."""

_TEXTS = ("prompt", "completion", "extracted", "reason", "parts", "finish", "probabilities", "dispatch", "label", "z")
_MEASURED = tuple(name for name in SCHEMA.names if name not in _TEXTS)


@dataclass(frozen=True)
class CellRow:
    """One answer of a cell.

    Attributes:
        sample: The prompt, as the task has it.
        row: Its digest.
        cluster: What it shares with others; None if prompts are independent.
        own: See ``SCHEMA``.
        asked: The prompt as it was put to the engine.
        mixture: Whose z answered.
        z: The digest of that z; None if no z did.
        answer: None if the texts are not known: then there is a reward alone.
        reward: None if the answer was not graded.
        first: The first pass, if there was one.
    """

    sample: Sample
    row: str
    cluster: str | None
    own: str | None
    asked: str
    mixture: Mixture
    z: str | None
    answer: Answer | None
    reward: float | None
    first: FirstPass | None = None


def write_cell(run: Storage, key: CellKey, kind: WayKind, own_task: bool | None, rows: Sequence[CellRow]) -> None:
    """Write the answers of a cell into the folder of its run.

    Raises:
        JobError: They cannot be written.
    """
    same = asdict(key) | {"kind": kind, "own_task": own_task}
    write_rows(run.folder(FOLDER), file_name(key), [same | _plain(row) for row in rows], SCHEMA)


def read_cells(run: Storage) -> list[Cell]:
    """Read all cells of a run, without texts.

    Raises:
        SamplesError: A file is damaged; names it.
    """
    folder = run.folder(FOLDER)
    return [_cell(read_rows(folder, name, SCHEMA, _MEASURED)) for name in folder.names()]


def read_answers(run: Storage, keys: Iterable[CellKey]) -> dict[CellKey, list[dict[str, Any]]]:
    """Read the whole rows of some cells.

    Raises:
        SamplesError: A file is gone or damaged; names it.
    """
    return {key: read_rows(run.folder(FOLDER), file_name(key), SCHEMA) for key in keys}


def file_name(key: CellKey) -> str:
    """Name a cell's file for people to find, with a digest that tells names apart that look the same."""
    digest = hashlib.sha256(json.dumps(asdict(key)).encode()).hexdigest()[:8]
    numbers = "".join(f"-{name}{value}" for name, value in asdict(key).items() if isinstance(value, int))
    return f"{key.task}-{re.sub(r'[^A-Za-z0-9_.]+', '-', key.way)[:60]}{numbers}-{digest}.parquet"


def _plain(row: CellRow) -> dict[str, Any]:
    answer: Mapping[str, Any] = {} if row.answer is None else asdict(row.answer)
    first: Mapping[str, Any] = {"first_tokens": 0, "first_seconds": 0.0}
    if row.first is not None:
        first = {
            "first_tokens": row.first.prompt_tokens,
            "first_seconds": row.first.seconds,
            "label": row.first.label,
            "named": row.first.named,
            "confidence": row.first.confidence,
            "probabilities": json.dumps(dict(row.first.probabilities)),
            "dispatch": row.first.reason,
        }
    return {
        "sample": row.sample.id,
        "row": row.row,
        "cluster": row.cluster,
        "own": row.own,
        "z": row.z,
        "mixture": json.dumps(dict(row.mixture)),
        "prompt": row.asked,
        **answer,
        "reward": row.reward,
        "parts": json.dumps(dict(answer.get("parts", {}))),
        **first,
    }


def _cell(rows: Sequence[Mapping[str, Any]]) -> Cell:
    first = rows[0]
    clusters = [row["cluster"] for row in rows]

    def numbers(name: str) -> Numbers:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)

    return Cell(
        key=CellKey(first["task"], first["way"], first["shots"], first["draw"], first["seed"]),
        kind=first["kind"],
        own_task=first["own_task"],
        rows=[row["row"] for row in rows],
        clusters=None if None in clusters else clusters,
        mixtures=[mixture_from(row["mixture"]) for row in rows],
        own=[row["own"] for row in rows],
        named=[row["named"] for row in rows],
        rewards=numbers("reward"),
        tokens=numbers("tokens"),
        prompt_tokens=numbers("prompt_tokens"),
        seconds=numbers("seconds"),
        first_tokens=numbers("first_tokens"),
        first_seconds=numbers("first_seconds"),
        confidences=numbers("confidence"),
    )
