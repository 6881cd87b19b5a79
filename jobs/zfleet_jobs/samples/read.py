"""Reading samples: first the columns that choose, of all samples; then whole rows, of the chosen ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from zfleet.errors import SamplesError
from zfleet_jobs.samples.layout import SCHEMA, SampleFile, Training

_THREADS = 8
"""Several, because reading waits for a disk or a network."""
_CHOOSING = ("sample", "reward", "advantage")


class StepRewritten(Exception):
    """A step ran again and replaced its file between the first look and the second."""


@dataclass(frozen=True)
class Keys:
    """The columns that samples are chosen by: some 70 bytes of each, however long its texts are.

    Attributes:
        files: What they were read from.
        trainings: Those of the files, in order.
        table: N rows, in order of file and row. ``file``, ``training``: places in the two above; ``row``: place in the
            file; ``step``, ``reward``, ``advantage`` and ``sample`` as they are; ``prompt``: one number for each
            training and sample id.
    """

    files: Sequence[SampleFile]
    trainings: Sequence[Training]
    table: pa.Table

    @property
    def graded(self) -> Keys:
        """Those that have a reward."""
        return replace(self, table=self.table.filter(self.table["reward"].is_valid()))


def read_keys(system: fs.FileSystem, files: Sequence[SampleFile]) -> Keys:
    """Read the columns that choose.

    Raises:
        SamplesError: A file is damaged or gone; it is named.
    """
    with ThreadPoolExecutor(_THREADS, "zfleet-samples") as pool:
        parts = list(pool.map(partial(read_table, system, columns=_CHOOSING), files))
    table = pa.concat_tables(part.replace_schema_metadata(None) for part in parts)
    file = np.repeat(np.arange(len(files), dtype=np.int32), [len(part) for part in parts])
    trainings = sorted({one.training for one in files})
    number = {training: place for place, training in enumerate(trainings)}
    training = np.array([number[one.training] for one in files], dtype=np.int32)[file]
    step = np.array([one.step for one in files], dtype=np.int64)[file]
    row = np.concatenate([np.arange(len(part), dtype=np.int32) for part in parts])
    # Encoded in one piece: chunk by chunk, every chunk would carry all ids before it. Together they may be over 2 GiB.
    ids = table["sample"].cast(pa.large_string()).combine_chunks().dictionary_encode()
    prompt = training * np.int64(1 + len(ids.dictionary)) + ids.indices.to_numpy()
    places = {"file": file, "row": row, "training": training, "step": step, "prompt": prompt}
    for name, values in places.items():
        table = table.append_column(name, pa.array(values))
    return Keys(files, trainings, table)


def read_rows(system: fs.FileSystem, keys: Keys, places: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Read some samples whole, one file at a time.

    Args:
        places: Which rows of ``keys``.

    Returns:
        Of each place the sample: every column of its file, and run, expert, digest and step.

    Raises:
        SamplesError: A file is damaged or gone; it is named.
        StepRewritten: A row is not the one that was chosen.
    """
    by_file: dict[int, list[dict[str, Any]]] = defaultdict(list)
    chosen = sorted(set(places))
    for place, key in zip(chosen, keys.table.take(pa.array(chosen, pa.int64())).to_pylist(), strict=True):
        by_file[key["file"]].append({**key, "place": place})
    rows: dict[int, dict[str, Any]] = {}
    for number, chosen_rows in by_file.items():
        file = keys.files[number]
        table = read_table(system, file, SCHEMA.names)
        if max(key["row"] for key in chosen_rows) >= len(table):
            raise StepRewritten
        where = {"run": file.training.run, "expert": file.training.expert, "digest": file.training.digest}
        for key, row in zip(chosen_rows, table.take([key["row"] for key in chosen_rows]).to_pylist(), strict=True):
            if any(row[name] != key[name] for name in _CHOOSING):
                raise StepRewritten
            rows[key["place"]] = {**where, "step": file.step, **row}
    return rows


def read_table(system: fs.FileSystem, file: SampleFile, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a file, and its metadata.

    Raises:
        SamplesError: It is damaged or gone.
    """
    try:
        source = system.open_input_file(file.path)
    except OSError as error:
        raise SamplesError(
            f"{file.path} cannot be read: {error}", "see that its run's folder is still there"
        ) from error
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    try:
        with source, pq.ParquetFile(source, page_checksum_verification=True) as parquet:
            metadata = parquet.schema_arrow.metadata
            table = parquet.read(columns=list(columns), use_threads=False).select(list(columns)).cast(schema)
        # Otherwise a text that is no UTF-8 would fail when it is printed.
        table.validate(full=True)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise SamplesError(
            f"{file.path} is damaged: {error}",
            f"delete it: only one worker's samples of step {file.step} are lost, and the run itself does not need them",
        ) from error
    return table.replace_schema_metadata(metadata)
