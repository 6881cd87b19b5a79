"""Every sample of a training, on disk: Parquet, partitioned by step, a file of each worker."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from zfleet.rl.rollout import Rollout
from zfleet.tasks.task import Grade, Ungraded
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.samples.layout import SCHEMA, in_step


def write_samples(folder: str, step: int, rank: int, rollouts: Sequence[Rollout], advantages: Tensor) -> str:
    """Write one worker's samples of a step, whole or not at all; a step that runs again writes the same file.

    Args:
        folder: Of the training, a path or a URI.
        step: From 1.
        rank: Of the worker.
        rollouts: Answers, N of them.
        advantages: Of each, [N]; NaN where it is not learned from.

    Returns:
        The folder of the step.

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
            **_grade(rollout.grade),
            "advantage": None if math.isnan(advantage) else advantage,
            "z": rollout.z,
            "staleness": step - 1 - rollout.z_step,
        }
        for rollout, advantage in zip(rollouts, advantages.tolist(), strict=True)
    ]
    place = in_step(folder, step)
    file = pa.BufferOutputStream()
    # Checksums: a file whose bits were lost is named, not read wrong.
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, write_page_checksum=True)
    # Readers of a folder pass over the name that a file has until it is whole.
    Storage(place).put(f"worker-{rank}.parquet", file.getvalue().to_pybytes())
    return place


def _grade(grade: Grade | Ungraded) -> dict[str, float | str | None]:
    if isinstance(grade, Ungraded):
        return {"reward": None, "extracted": None, "reason": grade.reason, "parts": "{}"}
    parts = json.dumps(dict(grade.parts))
    return {"reward": grade.value, "extracted": grade.extracted, "reason": grade.reason, "parts": parts}
