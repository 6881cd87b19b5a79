"""Every sample of a training, on disk: Parquet, partitioned by step, a file of each worker."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from zfleet.errors import TrainingDiverged
from zfleet.rl.learner import Learner, StepSamples
from zfleet.rl.report import StepReport
from zfleet.rl.rollout import Rollout
from zfleet.tasks.task import Grade, Ungraded
from zfleet_jobs.run_folder.storage import Storage
from zfleet_jobs.samples.layout import SCHEMA, Move, in_step


def step_with_samples(learner: Learner, folders: Mapping[str, str]) -> list[StepReport]:
    """Take a step of every expert, and write this worker's samples of it, also those of a step that diverged.

    Args:
        learner: Of the experts.
        folders: {expert's name: folder of its samples, a path or a URI}.

    Raises:
        RewardError: A reward function raised.
        TrainingDiverged: As ``Learner.learn``; says where the samples of that step are.
        JobError: Samples cannot be written, for example because the disk is full.
    """
    samples = learner.sample()
    try:
        reports = learner.learn(samples)
    except TrainingDiverged as error:
        places = _write_all(samples, folders, learner.workers.rank, {})
        remedy = f"{error.remedy}; the samples of that step are in {places[error.expert]}"
        raise TrainingDiverged(error.message, remedy, error.expert) from error
    moves = {report.expert: Move(report.began_at, report.reached) for report in reports}
    _write_all(samples, folders, learner.workers.rank, moves)
    return reports


def _write_all(
    samples: StepSamples, folders: Mapping[str, str], rank: int, moves: Mapping[str, Move]
) -> dict[str, str]:
    return {
        batch.expert.name: write_samples(
            folders[batch.expert.name],
            batch.step,
            rank,
            batch.rollouts,
            batch.advantages_of_all,
            moves.get(batch.expert.name),
        )
        for batch in samples.batches
    }


def write_samples(
    folder: str, step: int, rank: int, rollouts: Sequence[Rollout], advantages: Tensor, move: Move | None
) -> str:
    """Write one worker's samples of a step, whole or not at all; a step that runs again writes the same file.

    Args:
        folder: Of the training, a path or a URI.
        step: From 1.
        rank: Of the worker.
        rollouts: Answers, N of them.
        advantages: Of each, [N]; NaN if it is not learned from.
        move: Of the expert's z by this step; None if the step was not taken.

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
            "z": rollout.z_digest,
            "staleness": step - 1 - rollout.z_step,
        }
        for rollout, advantage in zip(rollouts, advantages.tolist(), strict=True)
    ]
    place = in_step(folder, step)
    file = pa.BufferOutputStream()
    # Checksums, so that a file with lost bits raises an error instead of being read wrong.
    schema = SCHEMA if move is None else SCHEMA.with_metadata(move.metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema), file, write_page_checksum=True)
    # Readers skip the name that a file has until it is whole.
    Storage(place).put(f"worker-{rank}.parquet", file.getvalue().to_pybytes())
    return place


def _grade(grade: Grade | Ungraded) -> dict[str, float | str | None]:
    if isinstance(grade, Ungraded):
        return {"reward": None, "extracted": None, "reason": grade.reason, "parts": "{}"}
    parts = json.dumps(dict(grade.parts))
    return {"reward": grade.value, "extracted": grade.extracted, "reason": grade.reason, "parts": parts}
