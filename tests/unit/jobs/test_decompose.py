"""Matrices decomposed from a base's files: the same numbers as from the loaded model, in bounded memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from zfleet.config.specs import BaseSpec
from zfleet.errors import BaseModelError, FactorsError
from zfleet.models.base import Base, load_base
from zfleet.models.bundle import pack_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.matrices import target_matrices
from zfleet.paths import cache_root
from zfleet.svf.cache import FactorCache
from zfleet.svf.decompose import decompose_matrix, peak_bytes
from zfleet.svf.factors import MatrixFactors, decompose
from zfleet.svf.layout import target_names
from zfleet.testing.tiny_bases import FAMILIES, save_tiny
from zfleet.testing.tiny_vision import save_tiny_vision
from zfleet_cli.main import app
from zfleet_jobs.decompose.display import time_left

WEIGHTS = "model.safetensors"
EVERYTHING = r".*(proj|dense|fc\d|lm_head)"
"""All linears, an output layer that is tied to the embeddings included."""


def _weight(base: Base, name: str) -> Tensor:
    return base.model.get_parameter(f"{name}.weight").detach()


def _same(one: MatrixFactors, other: MatrixFactors) -> bool:
    return all(torch.equal(a, b) for a, b in ((one.u, other.u), (one.s, other.s), (one.vh, other.vh)))


# The same numbers as from the loaded model


@pytest.mark.parametrize("family", [*FAMILIES, "llava", "llava_next"])
def test_factors_are_bit_for_bit_those_of_the_loaded_model(family: str, tmp_path: Path) -> None:
    if family in FAMILIES:
        folder = save_tiny(family, tmp_path / "base")
    else:
        folder = save_tiny_vision(family, save_tiny("llama", tmp_path / "tower"), tmp_path / "base")  # type: ignore[arg-type]
    base = load_base(folder)
    matrices = target_matrices(folder, base.fingerprint, EVERYTHING)
    factors = FactorCache(tmp_path / "cache").get(matrices)
    assert list(factors.matrices) == target_names(base.model, EVERYTHING)
    assert "lm_head" in factors.matrices
    assert any(matrix.key != f"{matrix.name}.weight" for matrix in matrices.matrices) == (
        family in ("gemma", "llama-tied", "llava", "llava_next")
    )
    for name, matrix in factors.matrices.items():
        assert _same(matrix, decompose(_weight(base, name), torch.float32)), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_shards_of_any_type_give_what_a_base_in_float32_gives(
    dtype: torch.dtype, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=dtype).save_pretrained(folder, max_shard_size="50KB")
    matrices = target_matrices(folder, "base").matrices
    assert len({matrix.file for matrix in matrices}) > 2
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for matrix in matrices:
        assert torch.equal(matrix.read(), loaded.get_parameter(f"{matrix.name}.weight"))


def test_tensors_named_without_the_models_prefix_are_found(tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "bare"))
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    bare = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    safetensors.torch.save_file(bare, folder / WEIGHTS, {"format": "pt"})
    for matrix in target_matrices(folder, "base").matrices:
        assert torch.equal(matrix.read(), _weight(tiny_base, matrix.name))


def test_weights_beside_those_that_are_loaded_do_not_count(tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    """Mistral's folders hold a second copy of the weights, under other names."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "twice"))
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    safetensors.torch.save_file(
        {key: tensor + 1 for key, tensor in tensors.items()}, folder / "consolidated.safetensors"
    )
    for matrix in target_matrices(folder, "base").matrices:
        assert torch.equal(matrix.read(), _weight(tiny_base, matrix.name))


# The error that is reported


def test_the_error_is_that_of_the_factors_as_stored(tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    for dtype, most in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        folder = tmp_path / str(dtype)
        folder.mkdir()
        for matrix in target_matrices(tiny_folder, "base", r".*layers\.1.*").matrices:
            done = decompose_matrix(matrix, folder, dtype)
            tensors = safetensors.torch.load_file(folder / f"{matrix.name}.safetensors")
            weight = _weight(tiny_base, matrix.name).double()
            off = weight - tensors["u"].double() @ tensors["s"].double().diag() @ tensors["vh"].double()
            assert done.error == pytest.approx(float(off.norm() / weight.norm()), rel=1e-6)
            assert most / 1000 < done.error < most
            assert done.shape == tuple(weight.shape)


def test_the_error_of_factors_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    factors = decompose(weight, torch.float64)
    dropped = MatrixFactors(factors.u, torch.cat([factors.s[:3], torch.zeros(2)]), factors.vh)
    # Several blocks of rows give what one gives.
    for rows in (1024, 3):
        monkeypatch.setattr("zfleet.svf.factors._ROWS", rows)
        assert dropped.error(weight) == pytest.approx(float(factors.s[3:].norm() / factors.s.norm()), rel=1e-6)
        assert factors.error(weight) < 1e-14
    nothing = torch.zeros(3, 2)
    assert decompose(nothing, torch.float32).error(nothing) == 0


# What cannot be decomposed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named_with_its_file(tiny_folder: Path, tmp_path: Path, value: float) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "bad"))
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    safetensors.torch.save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    cache = FactorCache(tmp_path / "cache")
    with pytest.raises(FactorsError, match=rf"model\.layers\.1\.mlp\.up_proj in {folder / WEIGHTS} holds NaN"):
        cache.get(target_matrices(folder, "base"))
    assert len(list(cache.folder("base", "all").glob("*.safetensors"))) > 7, "what was finished is lost"


def test_a_full_disk_loses_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    cache, matrices = FactorCache(tmp_path / "cache"), target_matrices(tiny_folder, "base")
    whole = FactorCache(tmp_path / "whole").get(matrices)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Smaller matrices fit and come first: 32 x 64 does, 96 x 64 does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        with pytest.raises(FactorsError, match=r"mlp\.gate_proj cannot be written to .*cache") as refused:
            cache.get(matrices)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "goes on where it stopped" in refused.value.remedy
    folder = cache.folder("base", "all")
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert {path.stem.rsplit(".")[-1] for path in kept} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert not list(folder.glob(".*.safetensors.*")), "half a file was left"
    assert cache.get(matrices).digest == whole.digest
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_machine_that_does_not_share_the_folder_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    matrix = target_matrices(tiny_folder, "base").matrices[0]
    with pytest.raises(FactorsError, match="is not there on") as refused:
        decompose_matrix(matrix, tmp_path / "elsewhere", torch.float32)
    assert "all machines share" in refused.value.remedy


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("no such shard", r"model-2\.safetensors cannot be read"),
        ("a matrix less", r"no weight of model\.layers\.1\.mlp\.up_proj"),
        ("other shape", r"up_proj\.weight in .*model-1\.safetensors is \[96, 63\], .* says \[96, 64\]"),
        ("quantized", r"up_proj\.weight in .*model-1\.safetensors is quantized"),
        ("no index", r"holds no model\.safetensors, and .*index\.json cannot be read"),
        ("index is a list", r"index\.json cannot be read"),
        ("truncated", r"model-1\.safetensors is truncated or damaged"),
        ("header of nothing", r"model-1\.safetensors is truncated or damaged"),
    ],
)
def test_a_base_whose_files_do_not_fit_is_refused(tiny_folder: Path, tmp_path: Path, harm: str, told: str) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "bad"))
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    name = "model.layers.1.mlp.up_proj.weight"
    if harm == "a matrix less":
        del tensors[name]
    elif harm == "other shape":
        tensors[name] = tensors[name][:, 1:].contiguous()
    elif harm == "quantized":
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    shard = folder / "model-1.safetensors"
    safetensors.torch.save_file(tensors, shard, {"format": "pt"})
    where = dict.fromkeys(tensors, shard.name) | ({"x": "model-2.safetensors"} if harm == "no such shard" else {})
    index = [] if harm == "index is a list" else {"weight_map": where}
    if harm != "no index":
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if harm == "truncated":
        shard.write_bytes(shard.read_bytes()[:-10])
    elif harm == "header of nothing":
        shard.write_bytes(b"\xff" * 20)
    with pytest.raises(BaseModelError, match=told) as refused:
        target_matrices(folder, "base")
    assert refused.value.remedy


def test_a_file_that_is_another_one_by_now_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    matrix = target_matrices(folder, "base").matrices[0]
    safetensors.torch.save_file({matrix.key: torch.zeros(2, 2)}, folder / WEIGHTS)
    with pytest.raises(BaseModelError, match=r"holds no model\.layers\.0.*any more"):
        matrix.read()
    (folder / WEIGHTS).unlink()
    with pytest.raises(BaseModelError, match="cannot be read"):
        matrix.read()


# Memory


def test_a_base_larger_than_the_memory_is_decomposed_and_opened(tmp_path: Path) -> None:
    """And cannot be copied into the same memory."""
    folder = tmp_path / "big"
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=384,
        intermediate_size=640,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="10MB")
    for file in save_tiny("llama", tmp_path / "tiny").glob("tokenizer*"):
        shutil.copy(file, folder)
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert len(list(folder.glob("*.safetensors"))) > 4
    room = peak_bytes((640, 384)) + 12 * 2**20
    assert total > 1.5 * room
    command = [sys.executable, __file__, str(room), str(folder), str(tmp_path / "tiny")]
    # The C library keeps what is freed in blocks of less than 32 MiB. Those of a big matrix are larger and go back.
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "524288", "ZFLEET_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    made, decomposed, opened, copied = done.stdout.splitlines()
    assert (made, decomposed, opened) == ("56 matrices", "decompose 0", "open 0"), done.stderr
    assert copied.startswith("copy ")
    assert copied != "copy 0"
    assert re.search("(?i)allocate memory|bad_alloc|MemoryError", done.stderr.splitlines()[-1]), done.stderr


def _limited(room: int, what: str, folder: Path, tiny: Path) -> None:
    """Decompose, open or copy a base in a process that may take ``room`` bytes more than it took before."""
    torch.set_num_threads(1)
    # The library of linear algebra has buffers of its own, taken once; transformers imports a family when it is opened.
    other = torch.rand(256, 256, dtype=torch.float64)
    torch.linalg.svd(other @ other)
    load_base(tiny)
    status = Path("/proc/self/status").read_text()
    taken = 1024 * int(re.findall(r"VmData:\s+(\d+) kB", status)[0])
    resource.setrlimit(resource.RLIMIT_DATA, (taken + room, taken + room))
    if what == "decompose":
        found = FactorCache(cache_root() / "factors").compute(target_matrices(folder, fingerprint(folder)))
        print(len(found.headers), "matrices")
    elif what == "open":
        model = pack_base(BaseSpec(model=str(folder))).open()
        ids = torch.tensor([[1, 2, 3]])
        with torch.no_grad():
            off = model.logits(ids, torch.ones(1, model.layout.size)) - model.logits(ids, None)
        assert 0 < float(off.abs().max()) < 1e-3
    else:
        copied = AutoModelForCausalLM.from_pretrained(folder)
        assert not copied.training


# Jobs


def test_packing_a_base_uses_what_was_decomposed(
    tiny_folder: Path, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path))
    factors = FactorCache(tmp_path / "factors").compute(target_matrices(tiny_folder, tiny_base.fingerprint))
    times = {path: path.stat().st_mtime_ns for path in factors.path.iterdir()}
    assert pack_base(BaseSpec(model=str(tiny_folder))).factors_digest == factors.digest
    assert {path: path.stat().st_mtime_ns for path in factors.path.glob("[!.]*")} == {
        path: time for path, time in times.items() if path.name != ".lock"
    }


def test_a_dry_run_says_what_is_finished_and_what_the_rest_takes(
    tiny_folder: Path, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    command = ["decompose", "--set", f"base.model={tiny_folder}", "--set", "base.targets=mlp", "--dry-run"]
    plan = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert not (tmp_path / "factors").exists()
    matrices = target_matrices(tiny_folder, tiny_base.fingerprint, "mlp")
    folder = Path(plan["folder"])
    folder.mkdir(parents=True)
    for matrix in matrices.matrices[:2]:
        decompose_matrix(matrix, folder, torch.float32)
    table = CliRunner().invoke(app, command)
    assert table.exit_code == 0, table.output
    assert "2 of 6 matrices finished" in table.stdout
    plan = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [one["finished"] for one in plan["matrices"]] == [True] * 2 + [False] * 4
    gate = plan["matrices"][0]
    assert (gate["matrix"], gate["shape"]) == ("model.layers.0.mlp.gate_proj", [96, 64])
    assert gate["stored_bytes"] == 4 * 96 * 64
    assert gate["factors_bytes"] == 4 * (96 * 64 + 64 + 64 * 64)
    assert gate["memory_bytes"] - peak_bytes((96, 64)) == 512 * 2**20


def test_the_time_left_goes_by_the_work_that_was_done() -> None:
    assert time_left(10, 100, 300) == "30 s left"
    assert time_left(600, 100, 300) == "30 min left"
    assert time_left(3600, 100, 250) == "2 h 30 min left"
    assert (time_left(10, 0, 300), time_left(10, 100, 0)) == ("", "")


if __name__ == "__main__":
    # Imports once, and forks while it has one thread.
    for what in ("decompose", "open", "copy"):
        arguments = (int(sys.argv[1]), what, Path(sys.argv[2]), Path(sys.argv[3]))
        process = multiprocessing.get_context("fork").Process(target=_limited, args=arguments)
        process.start()
        process.join()
        print(what, process.exitcode, flush=True)
