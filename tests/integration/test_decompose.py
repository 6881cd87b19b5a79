"""``zfleet decompose`` as a real job: what is finished stays when the driver or a worker dies.

Planning and display are in tests/unit/jobs. Here are real processes, because they are killed; all but the killed
command share one cluster.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from zfleet.config.specs import BaseSpec
from zfleet.errors import FactorsError, JobError
from zfleet.models.matrices import target_matrices
from zfleet.svf.cache import FactorCache
from zfleet.svf.folder import MANIFEST
from zfleet_cli.main import app
from zfleet_jobs.decompose.run import Decomposition, run_decompose

pytestmark = pytest.mark.usefixtures("ray_cluster")
MATRICES = 14
ROOM_GIB = 1.2
"""Room for two tasks at once: more would wait for the cores."""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> BaseSpec:
    """A base in shards whose matrices take a core a few tenths of a second each."""
    folder = tmp_path_factory.mktemp("slow") / "slow"
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=768,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="20MB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return BaseSpec(model=str(folder))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path))
    return tmp_path / "factors"


def _files(cache: Path) -> dict[str, tuple[int, int]]:
    """{matrix: inode and time of its file}."""
    return {path.stem: (path.stat().st_ino, path.stat().st_mtime_ns) for path in cache.glob("*/[!.]*.safetensors")}


def _wait(for_: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 600
    while not for_():
        assert time.monotonic() < deadline, f"not within 600 s: {what}"
        time.sleep(0.01)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_killed_job_goes_on_where_it_stopped(slow: BaseSpec, cache: Path) -> None:
    command = [str(Path(sys.executable).with_name("zfleet")), "decompose", "--set", f"base.model={slow.model}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as job:
        family: list[psutil.Process] = []
        try:
            _wait(lambda: len(_files(cache)) >= 2 or job.poll() is not None, "two matrices are finished")
            family = psutil.Process(job.pid).children(recursive=True)
        finally:
            job.kill()
            # Its cluster would end by itself, a little later.
            for process in family:
                if process.is_running():
                    process.kill()
            _wait(lambda: not any(map(_lives, family)), "its processes end")
    before = _files(cache)
    assert 2 <= len(before) < MATRICES, "the job ended before it was killed"
    resumed = run_decompose(slow, memory_gib=ROOM_GIB)
    assert {one.matrix for one in resumed.matrices if one.seconds is None} == before.keys()
    after = _files(cache)
    assert {name: after[name] for name in before} == before, "a finished matrix was computed again"
    assert len(after) == len(resumed.matrices) == MATRICES
    again = run_decompose(slow)
    assert _files(cache) == after
    assert all(one.seconds is None for one in again.matrices)
    assert again.digest == resumed.digest
    assert [one.error for one in again.matrices] == [one.error for one in resumed.matrices]
    assert all(1e-9 < one.error < 1e-6 for one in again.matrices)


def test_a_matrix_whose_worker_was_killed_is_done_again(
    slow: BaseSpec, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def called(process: psutil.Process) -> str:
        """What a process calls itself; nothing if it ends at this moment."""
        try:
            return " ".join(process.cmdline())
        except psutil.Error:
            return ""

    def at_work() -> list[psutil.Process]:
        """Workers in the midst of a matrix: Ray calls them by their task's name."""
        mine = psutil.Process().children(recursive=True)
        return [process for process in mine if called(process).startswith("ray::decompose ")]

    def stopped() -> tuple[psutil.Process, str] | None:
        """A worker that was stopped before it had finished its matrix, which is named."""
        for process in at_work():
            process.suspend()
            task, _, matrix = called(process).partition(" ")
            if task == "ray::decompose" and matrix.strip() not in _files(cache):
                return process, matrix.strip()
            process.resume()
        return None

    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(run_decompose, slow, memory_gib=ROOM_GIB)
        _wait(lambda: bool(_files(cache)), "a matrix is finished")
        while (found := stopped()) is None:
            assert not job.done(), "it was finished before a worker was stopped"
        victim, matrix = found
        victim.kill()
        done: Decomposition = job.result()
    assert {one.matrix for one in done.matrices} == _files(cache).keys()
    assert not (psutil.pid_exists(victim.pid) and victim.is_running())
    assert {one.matrix: one.seconds for one in done.matrices}[matrix] is not None
    assert f" {matrix} [" in capfd.readouterr().err
    here = FactorCache(tmp_path / "here").compute(target_matrices(Path(slow.model), _fingerprint(done), "all"))
    assert here.digest == done.digest, "a cluster computes other factors than one process"


def _fingerprint(done: Decomposition) -> str:
    return str(json.loads((Path(done.folder) / MANIFEST).read_text())["base"])


def test_a_damaged_weight_ends_the_job_with_its_name(tiny_folder: Path, tmp_path: Path, cache: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "bad"))
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    # The smallest: it comes last.
    tensors["model.layers.1.self_attn.v_proj.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(FactorsError, match=r"layers\.1\.self_attn\.v_proj in .*bad/model\.safetensors holds NaN"):
        run_decompose(BaseSpec(model=str(folder)))
    assert len(_files(cache)) > MATRICES // 2, "what was finished is lost"


def test_a_matrix_that_no_machine_holds_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(JobError, match=r"takes up to 0\.5 GiB, --memory is 0\.1"):
        run_decompose(BaseSpec(model=str(tiny_folder)), memory_gib=0.1)


def test_the_command_gives_every_matrix_its_error(
    tiny_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_decompose(BaseSpec(model=str(tiny_folder)), memory_gib=ROOM_GIB)
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, ["decompose", "--set", f"base.model={tiny_folder}"])
    assert done.exit_code == 0, done.stderr
    (folder,) = cache.iterdir()
    *table, where, told = done.stdout.splitlines()
    assert where == str(folder)
    assert told.startswith("base tiny-")
    assert "targets all, digest " in told
    assert sum("finished before" in line for line in table) == MATRICES
