"""Every sample of a training, on disk: Parquet, partitioned by step, a file of each worker."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from torch import Tensor

from zfleet.rl.rollout import Rollout
from zfleet_jobs.samples.layout import SCHEMA, in_step
from zfleet_jobs.train.storage import writing


def write_samples(folder: str, step: int, rank: int, rollouts: Sequence[Rollout], advantages: Tensor) -> None:
    """Write one worker's samples of a step, whole or not at all; a step that runs again writes the same file.

    Args:
        folder: Of the training, a path or a URI.
        step: From 1.
        rank: Of the worker.
        rollouts: Graded answers, N of them.
        advantages: Of each, [N]; NaN where it is not learned from.

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
            "advantage": None if math.isnan(advantage) else advantage,
            "extracted": rollout.grade.extracted,
            "reason": rollout.grade.reason,
            "parts": json.dumps(dict(rollout.grade.parts)),
            "z": rollout.z,
            "staleness": step - 1 - rollout.z_step,
        }
        for rollout, advantage in zip(rollouts, advantages.tolist(), strict=True)
    ]
    system, root = fs.FileSystem.from_uri(folder)
    place = in_step(root, step)
    # Readers of a folder pass over names that begin with a dot.
    unfinished = f"{place}/.{uuid.uuid4().hex}"
    with writing(folder):
        system.create_dir(place, recursive=True)
        try:
            # Checksums: a file whose bits were lost is named, not read wrong.
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), unfinished, filesystem=system, write_page_checksum=True)
            system.move(unfinished, f"{place}/worker-{rank}.parquet")
        except OSError:
            with suppress(OSError):
                system.delete_file(unfinished)
            raise
