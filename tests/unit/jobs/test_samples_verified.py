"""`zfleet samples --verify`: every sample was answered under the z that was published, or it says which was not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.contract import BASE_Z, Chunk, GenerationRequest
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import WrongZ
from zfleet.models.svf_model import SvfModel
from zfleet.testing.solo import SPEC, solo, vowels_task
from zfleet_cli.main import app
from zfleet_jobs.run_folder.samples import step_with_samples
from zfleet_jobs.samples.layout import Move, Training
from zfleet_jobs.samples.verify import Verified, verify_samples

TRAINING = Training("lab", "vowels", "0123456789ab")


class Base(TorchEngine):
    """Answers every request under the base, whatever z it names, as a server does whose adapter was not loaded."""

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        async for chunk in super().generate(replace(request, z_digest=BASE_Z)):
            yield chunk


@pytest.fixture
def storage(tiny_model: SvfModel, engine: SyncEngine, tmp_path: Path) -> Path:
    """Three steps of a training, each sampled under the z of the step before its last."""
    spec = SPEC.model_copy(update={"staleness": 1})
    trained = solo(tiny_model, engine, vowels_task(), spec)
    for _ in range(3):
        step_with_samples(trained.learner, {trained.expert.name: TRAINING.folder_in(str(tmp_path))})
    trained.learner.close()
    return tmp_path


def _rewrite(storage: Path, step: int, z: str | None = None, move: Move | None = None) -> None:
    (path,) = storage.rglob(f"step={step:06d}/*.parquet")
    table = pq.read_table(path, partitioning=None)
    if z is not None:
        column = pa.array([z, *table["z"].to_pylist()[1:]])
        table = table.set_column(table.schema.get_field_index("z"), "z", column)
    if move is not None:
        table = table.replace_schema_metadata(move.metadata)
    pq.write_table(table, path, write_page_checksum=True)


def _verified(storage: Path) -> Verified:
    (verified,) = verify_samples("lab", str(storage))
    return verified


def test_a_run_whose_samples_fit_is_proven(storage: Path) -> None:
    verified = _verified(storage)
    assert (verified.training, verified.steps, verified.samples, verified.faults) == (TRAINING, 3, 96, [])
    done = CliRunner().invoke(app, ["samples", "lab", "--storage", str(storage), "--verify"])
    assert done.exit_code == 0
    assert "proven" in done.stdout
    assert verified.reached[:12] in done.stdout


def test_a_sample_of_another_z_is_found(storage: Path) -> None:
    _rewrite(storage, 3, z=BASE_Z)
    (fault,) = _verified(storage).faults
    assert fault.startswith(f"step 3: 1 samples were answered under z {BASE_Z[:12]}, published was ")
    done = CliRunner().invoke(app, ["samples", "lab", "--storage", str(storage), "--verify", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)[0]["faults"] == [fault]


def test_a_step_that_does_not_follow_the_one_before_is_found(storage: Path) -> None:
    _rewrite(storage, 2, move=Move("a" * 64, "b" * 64))
    first, second = _verified(storage).faults
    assert first.startswith("step 2 began at z aaaaaaaaaaaa, and the step before led to ")
    assert second.startswith("step 3 began at z ")
    assert second.endswith("and the step before led to bbbbbbbbbbbb")


def test_a_step_without_samples_or_without_its_z_is_found(storage: Path) -> None:
    for file in storage.rglob("step=000001/*.parquet"):
        file.unlink()
    (path,) = storage.rglob("step=000002/*.parquet")
    pq.write_table(pq.read_table(path, partitioning=None).replace_schema_metadata(None), path, write_page_checksum=True)
    assert _verified(storage).faults == [
        "step 1 has no samples",
        "step 2 names no z: it was not taken, or an older version wrote it",
        "step 2: 32 samples are of the z after step 0, which no file names",
        "step 3: 32 samples are of the z after step 1, which no file names",
    ]


def test_an_engine_that_answers_under_the_base_ends_the_training(tiny_model: SvfModel) -> None:
    with SyncEngine(Base(tiny_model, EngineSpec(slots=32))) as engine:
        trained = solo(tiny_model, engine, vowels_task(), SPEC)
        before = trained.z.digest
        with pytest.raises(WrongZ, match=f"asked for z {before[:12]}, the engine answered under {BASE_Z[:12]}"):
            trained.learner.step()
        assert trained.z.digest == before
