"""Scores of real mixtures, recorded once: three experts of the lab base, mixed on a grid, prompt by prompt."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from learning.lab_experts import LEARNER, train_lab_experts
from zfleet.config.specs import BaseSpec, EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import ScoreRequest
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.evaluate.graded import answers_graded
from zfleet.files import write_atomic
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.paths import cache_root
from zfleet.rl.reference_answers import reference_tokens
from zfleet.rl.weights import SvfWeights
from zfleet.svf.mixture import mix
from zfleet.svf.zvector import ZVector
from zfleet.tasks.lab import FAMILIES_OF, lab_task
from zfleet.tasks.task import Grade, Task

Array = NDArray[np.float64]

EXAM = "exam_trained"
EXPERTS = FAMILIES_OF[EXAM]
POINTS_A_SIDE = 10
"""Alphas 0, 1/9, ..., 1 of each expert: the base and every single expert are among the mixtures."""

PROMPTS = 200

_ENGINE = EngineSpec(slots=256)
_CHUNK = 32
"""Mixtures in the engine at once."""

_VERSION = 1
"""Raised whenever other scores are recorded."""


@dataclass(frozen=True)
class Table:
    """What every mixture of the grid scores on every prompt.

    Attributes:
        right: Whether the greedy answer is right: [mixtures, prompts] float64, 0 or 1. The last expert's alpha runs
            fastest.
        likelihood: Log-likelihood of the right answer and its end: [mixtures, prompts] float64.
    """

    right: Array
    likelihood: Array


def grid() -> Array:
    """List the alphas of the recorded mixtures: [mixtures, experts] float64."""
    return np.array(list(itertools.product(np.linspace(0, 1, POINTS_A_SIDE), repeat=len(EXPERTS))))


@cache
def recorded_table() -> Table:
    """Read the table from the cache. The first time, build the base, train the experts and record."""
    bundle = pack_base(BaseSpec())
    path = _path(bundle)
    if not path.is_file():
        write_atomic(path, _packed(_record(bundle)))
    with np.load(path, allow_pickle=False) as stored:
        return Table(stored["right"].astype(np.float64), stored["likelihood"].astype(np.float64))


def _path(bundle: BaseBundle) -> Path:
    content = [_VERSION, bundle.fingerprint, bundle.factors_digest, LEARNER.model_dump(), EXAM, POINTS_A_SIDE, PROMPTS]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return cache_root() / "benchmark" / f"mixtures-{digest}.npz"


def _packed(table: Table) -> bytes:
    file = io.BytesIO()
    np.savez(file, right=table.right.astype(np.uint8), likelihood=table.likelihood.astype(np.float32))
    return file.getvalue()


def _record(bundle: BaseBundle) -> Table:
    weights = SvfWeights(bundle.open())
    points = grid()
    with (
        Progress(console=Console(stderr=True)) as progress,
        SyncEngine(TorchEngine(weights.model, _ENGINE)) as engine,
    ):
        bar = progress.add_task(f"train {', '.join(EXPERTS)}", total=LEARNER.steps)
        experts = train_lab_experts(weights, engine, EXPERTS, lambda _: progress.advance(bar))
        task, tokenizer = lab_task(EXAM, test_size=PROMPTS), bundle.tokenizer()
        scored = [
            score_mixtures(engine, tokenizer, task, [mix(experts, point.tolist()) for point in chunk])
            for chunk in progress.track(
                np.array_split(points, -(-len(points) // _CHUNK)), description=f"record {len(points)} mixtures"
            )
        ]
    return Table(*(np.concatenate(part) for part in zip(*scored, strict=True)))


def score_mixtures(
    engine: SyncEngine, tokenizer: PreTrainedTokenizerBase, task: Task, mixtures: Sequence[ZVector]
) -> tuple[Array, Array]:
    """Score mixtures on every test prompt, as a search scores them on its shots.

    Returns:
        As in ``Table``: [mixtures, prompts] each.
    """
    digests = [engine.put_z(z) for z in mixtures]
    rows = [(digest, sample) for digest in digests for sample in task.test]
    asked = [sample for _, sample in rows]
    evaluation = answers_graded(engine, tokenizer, task, asked, [digest for digest, _ in rows], 0.0, False)
    likelihoods = engine.score(
        [
            ScoreRequest(
                task.prompt(tokenizer, sample), reference_tokens(tokenizer, sample.answer, sample.id), z_digest=digest
            )
            for digest, sample in rows
        ]
    )
    for digest in digests:
        engine.drop_z(digest)
    shape = (len(mixtures), len(task.test))
    right = np.array([isinstance(grade, Grade) and grade.right for grade in evaluation.grades], dtype=np.float64)
    return right.reshape(shape), np.array([sum(one) for one in likelihoods]).reshape(shape)
