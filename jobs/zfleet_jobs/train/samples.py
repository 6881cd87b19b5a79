"""Every sample of a run, on disk: Parquet, partitioned by step, a file of each worker."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from torch import Tensor

from zfleet.rl.rollout import Rollout
from zfleet_jobs.train.storage import writing

_SCHEMA = pa.schema(
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
sampled it. ``staleness``: steps between the z that it was sampled under, ``z``, and the one that learned from it."""


def write_samples(folder: str, step: int, rank: int, rollouts: Sequence[Rollout], advantages: Tensor) -> None:
    """Write one worker's samples of a step, whole or not at all; a step that runs again writes the same file.

    Args:
        folder: Of the run, a path or a URI.
        step: From 1.
        rank: Of the worker.
        rollouts: Graded answers, N of them.
        advantages: Of each, [N].

    Raises:
        JobError: They cannot be written, for example because the disk is full.
    """
    rows = [
        {
            "sample": rollout.sample.id,
            "group": rollout.group,
            "prompt": rollout.sample.prompt,
            "images": list(rollout.sample.images),
            "completion": rollout.text,
            "tokens": len(rollout.completion),
            "finish": rollout.finish,
            "logprob": rollout.logprob,
            "reward": rollout.grade.value,
            "advantage": advantage,
            "extracted": rollout.grade.extracted,
            "reason": rollout.grade.reason,
            "parts": json.dumps(dict(rollout.grade.parts)),
            "z": rollout.z,
            "staleness": step - 1 - rollout.z_step,
        }
        for rollout, advantage in zip(rollouts, advantages.tolist(), strict=True)
    ]
    system, root = fs.FileSystem.from_uri(folder)
    place = f"{root}/step={step:06d}"
    # Readers of a folder pass over names that begin with a dot.
    unfinished = f"{place}/.{uuid.uuid4().hex}"
    with writing(folder):
        system.create_dir(place, recursive=True)
        try:
            pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), unfinished, filesystem=system)
            system.move(unfinished, f"{place}/worker-{rank}.parquet")
        except OSError:
            with suppress(OSError):
                system.delete_file(unfinished)
            raise
