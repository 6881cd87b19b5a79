"""Rows of plain data as Parquet files: whole or not at all, with checksums, and errors that name the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from zfleet.errors import SamplesError
from zfleet_jobs.run_folder.storage import Storage


def write_rows(storage: Storage, name: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write a file.

    Raises:
        JobError: It cannot be written, for example because the disk is full.
    """
    file = pa.BufferOutputStream()
    # Checksums, so that a file with lost bits raises an error instead of being read wrong.
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema), file, write_page_checksum=True)
    storage.put(name, file.getvalue().to_pybytes())


def read_rows(
    storage: Storage, name: str, schema: pa.Schema, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Read a file, or some of its columns.

    Raises:
        SamplesError: It is gone or damaged; names it.
    """
    place = f"{storage.place}/{name}"
    data = storage.get(name)
    if data is None:
        raise SamplesError(f"{place} is gone", "give the command again: it is written anew")
    chosen = schema if columns is None else pa.schema([schema.field(column) for column in columns])
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as parquet:
            table = parquet.read(columns=chosen.names).select(chosen.names).cast(chosen)
        table.validate(full=True)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise SamplesError(f"{place} is damaged: {error}", "delete it: the same command writes it anew") from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
