"""Answers and first passes of this run and of earlier ones, in Parquet files, by all that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

import pyarrow as pa

from zfleet.evaluate.answering import Answer
from zfleet.evaluate.cells import mixture_from
from zfleet.evaluate.first_pass import FirstPass
from zfleet_jobs.evaluate.identity import AnswerKey
from zfleet_jobs.evaluate.parquet import read_rows, write_rows
from zfleet_jobs.run_folder.storage import Storage

_ANSWERS = pa.schema(
    [
        ("asked", pa.string()),
        ("z", pa.string()),
        ("seed", pa.int64()),
        ("completion", pa.string()),
        ("finish", pa.string()),
        ("tokens", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("reward", pa.float64()),
        ("extracted", pa.string()),
        ("reason", pa.string()),
        ("parts", pa.string()),
    ]
)
_FIRST_PASSES = pa.schema(
    [
        ("asked", pa.string()),
        ("mixture", pa.string()),
        ("label", pa.string()),
        ("named", pa.string()),
        ("confidence", pa.float64()),
        ("probabilities", pa.string()),
        ("reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("seconds", pa.float64()),
    ]
)


class AnswerCache:
    """Answers that share a setting (see ``EngineIdentity.setting``).

    Args:
        storage: Where evaluations keep their answers.
        setting: The digest of the setting.
    """

    def __init__(self, storage: Storage, setting: str) -> None:
        self._storage = storage.folder(f"answers-{setting[:24]}")
        self._known: dict[AnswerKey, Answer] = {}
        for name in self._storage.names():
            for row in read_rows(self._storage, name, _ANSWERS):
                key = AnswerKey(row.pop("asked"), row.pop("z"), row.pop("seed"))
                self._known[key] = Answer(**row | {"parts": json.loads(row["parts"])})

    def __contains__(self, key: AnswerKey) -> bool:
        return key in self._known

    def __getitem__(self, key: AnswerKey) -> Answer:
        return self._known[key]

    def add(self, answers: Mapping[AnswerKey, Answer]) -> None:
        """Store the answers of a batch.

        Raises:
            JobError: They cannot be written.
        """
        rows = [asdict(key) | asdict(one) | {"parts": json.dumps(dict(one.parts))} for key, one in answers.items()]
        write_rows(self._storage, f"{_name(answers)}.parquet", rows, _ANSWERS)
        self._known |= answers


class FirstPassCache:
    """First passes of one dispatcher (see ``EngineIdentity.first_pass``), by the digests of the prompts.

    Args:
        storage: Where evaluations keep their answers.
        setting: The digest of the dispatcher and its engine.
    """

    def __init__(self, storage: Storage, setting: str) -> None:
        self._storage = storage.folder(f"first-passes-{setting[:24]}")
        self._known: dict[str, FirstPass] = {}
        for name in self._storage.names():
            for row in read_rows(self._storage, name, _FIRST_PASSES):
                asked = row.pop("asked")
                mixture, probabilities = mixture_from(row["mixture"]), json.loads(row["probabilities"])
                self._known[asked] = FirstPass(**row | {"mixture": mixture, "probabilities": probabilities})

    def __contains__(self, asked: str) -> bool:
        return asked in self._known

    def __getitem__(self, asked: str) -> FirstPass:
        return self._known[asked]

    def add(self, passes: Mapping[str, FirstPass]) -> None:
        """Store the first passes of a batch.

        Raises:
            JobError: They cannot be written.
        """
        rows = [
            {"asked": asked}
            | asdict(one)
            | {"mixture": json.dumps(dict(one.mixture)), "probabilities": json.dumps(dict(one.probabilities))}
            for asked, one in passes.items()
        ]
        write_rows(self._storage, f"{_name(passes)}.parquet", rows, _FIRST_PASSES)
        self._known |= passes


def _name(keys: Iterable[object]) -> str:
    """Name a file by what is in it: a batch that runs again overwrites its own file."""
    return hashlib.sha256("\n".join(map(str, keys)).encode()).hexdigest()[:24]
