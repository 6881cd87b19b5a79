"""Factors: computed once, resumed after a kill, verified on every load. Bases that cannot be used."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from zfleet.errors import BaseModelError, FactorsError, SpecError
from zfleet.models.base import Base, load_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.svf_model import SvfModel
from zfleet.svf.cache import FactorCache, one_by_one
from zfleet.svf.decompose import DecomposedMatrix
from zfleet.svf.factors import Factors
from zfleet.svf.folder import MANIFEST, FactorFolder
from zfleet.svf.layout import target_names
from zfleet.svf.stored import StoredMatrix, TargetMatrices

TARGETS = r".*mlp.*"
MATRICES = 12


def _stack(targets: str = TARGETS, base: str = "base") -> TargetMatrices:
    """Six layers of three matrices, the targets among them, in a file below the present folder."""
    file = Path("stack.safetensors")
    generator = torch.Generator().manual_seed(0)
    shapes = {"mlp.up": (20, 12), "mlp.down": (12, 20), "attn.q": (12, 12)}
    names = {f"layers.{layer}.{name}": shape for layer in range(6) for name, shape in shapes.items()}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in names.items()}
    safetensors.torch.save_file(weights, file)
    chosen = [name for name in weights if re.fullmatch(targets, name)]
    matrices = (StoredMatrix(name, file, name, names[name], torch.float32) for name in chosen)
    return TargetMatrices(base, targets, tuple(matrices))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _get(root: Path) -> tuple[Factors, list[DecomposedMatrix]]:
    seen: list[DecomposedMatrix] = []

    def seen_one_by_one(
        matrices: Sequence[StoredMatrix], folder: Path, dtype: torch.dtype
    ) -> Iterator[DecomposedMatrix]:
        for one in one_by_one(matrices, folder, dtype):
            seen.append(one)
            yield one

    return FactorCache(root).get(_stack(), by=seen_one_by_one), seen


def _folder(root: Path) -> Path:
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    return folder


def test_factors_reproduce_the_weights(tiny_base: Base, tiny_factors: Factors) -> None:
    for name, matrix in tiny_factors.matrices.items():
        weight = tiny_base.model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        rank = min(weight.shape)
        assert (matrix.u.shape, matrix.s.shape, matrix.vh.shape) == (
            (weight.shape[0], rank),
            (rank,),
            (rank, weight.shape[1]),
        )
        assert torch.allclose(matrix.merged(torch.ones(rank)).float(), weight, atol=1e-5)
        assert bool((matrix.s[:-1] >= matrix.s[1:]).all())
        assert torch.allclose(matrix.u.T @ matrix.u, torch.eye(rank), atol=1e-5)


def test_a_hit_computes_nothing(tmp_path: Path) -> None:
    first, seen = _get(tmp_path / "cache")
    assert [one.matrix for one in seen] == list(first.matrices) == [one.name for one in _stack().matrices]
    again, seen = _get(tmp_path / "cache")
    assert seen == []
    assert again.digest == first.digest
    assert list(again.matrices) == list(first.matrices)


def test_targets_and_bases_have_folders_of_their_own(tmp_path: Path) -> None:
    cache = FactorCache(tmp_path / "cache")
    digests = {
        cache.get(_stack(targets, base), dtype).digest
        for base, targets, dtype in [
            ("one", TARGETS, torch.float32),
            ("two", TARGETS, torch.float32),
            ("one", r".*attn.*", torch.float32),
            ("one", TARGETS, torch.bfloat16),
        ]
    }
    assert len(digests) == 4


def test_a_killed_computation_goes_on_and_gives_the_same_factors(tmp_path: Path) -> None:
    whole, _ = _get(tmp_path / "whole")
    root = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, __file__, str(root)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not list(root.glob("*/layers.*.safetensors")):
            assert time.monotonic() < deadline, "no matrix was written"
            assert child.poll() is None, "the computation ended before it was killed"
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    folder = _folder(root)
    left = list(folder.glob("layers.*.safetensors"))
    assert 0 < len(left) < MATRICES
    assert not (folder / MANIFEST).exists()
    with pytest.raises(FactorsError, match="no factors at"):
        FactorFolder(folder, "base", TARGETS).load()
    half = folder / ".layers.5.mlp.up.safetensors.0123"
    half.write_bytes(b"half of a file")
    times = {path: path.stat().st_mtime_ns for path in left}
    resumed, seen = _get(root)
    assert resumed.digest == whole.digest
    assert {f"{one.matrix}.safetensors" for one in seen if one.seconds is None} == {path.name for path in left}
    assert len(seen) == MATRICES
    assert {path: path.stat().st_mtime_ns for path in left} == times, "a finished matrix was computed again"
    assert not half.exists()


def test_of_two_at_once_one_computes_and_the_other_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    waits = threading.Event()

    def until_the_other_waits(
        matrices: Sequence[StoredMatrix], folder: Path, dtype: torch.dtype
    ) -> Iterator[DecomposedMatrix]:
        other.start()
        while "waiting for it" not in caplog.text:
            time.sleep(0.01)
        waits.set()
        yield from one_by_one(matrices, folder, dtype)

    other = threading.Thread(target=lambda: found.append(_get(tmp_path / "cache")))
    found: list[tuple[Factors, list[DecomposedMatrix]]] = []
    first = FactorCache(tmp_path / "cache").get(_stack(), by=until_the_other_waits)
    other.join()
    assert waits.is_set()
    ((second, seen),) = found
    assert seen == []
    assert second.digest == first.digest


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "not safetensors"])
def test_a_half_written_matrix_is_computed_again(tmp_path: Path, damage: str) -> None:
    whole, _ = _get(tmp_path / "cache")
    (_folder(tmp_path / "cache") / MANIFEST).unlink()
    _harm(_folder(tmp_path / "cache") / "layers.2.mlp.up.safetensors", damage)
    assert _get(tmp_path / "cache")[0].digest == whole.digest


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "not safetensors", "missing"])
def test_a_damaged_matrix_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    _get(tmp_path / "cache")
    _harm(_folder(tmp_path / "cache") / "layers.3.mlp.down.safetensors", damage)
    with pytest.raises(FactorsError, match=r"layers\.3\.mlp\.down\.safetensors") as refused:
        _get(tmp_path / "cache")
    assert "compute the factors again" in refused.value.remedy


def test_no_flipped_byte_goes_unnoticed(tmp_path: Path) -> None:
    whole, _ = _get(tmp_path / "cache")
    for file in ("layers.0.mlp.up.safetensors", MANIFEST):
        path = _folder(tmp_path / "cache") / file
        data = path.read_bytes()
        for place in range(0, len(data), 7):
            flipped = bytearray(data)
            flipped[place] ^= 0x02
            path.write_bytes(bytes(flipped))
            try:
                loaded, _ = _get(tmp_path / "cache")
            except FactorsError:
                continue
            assert loaded.digest == whole.digest, f"byte {place} of {file}"
            assert list(loaded.matrices) == list(whole.matrices), f"byte {place} of {file}"
        path.write_bytes(data)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"base": "base", "targets": ".*mlp.*"}'])
def test_a_damaged_manifest_is_refused_by_name(tmp_path: Path, content: str) -> None:
    _get(tmp_path / "cache")
    (_folder(tmp_path / "cache") / MANIFEST).write_text(content)
    with pytest.raises(FactorsError, match=r"factors\.json"):
        _get(tmp_path / "cache")


def test_a_folder_of_another_base_or_other_targets_is_refused(tmp_path: Path) -> None:
    _get(tmp_path / "cache")
    for base, targets in (("other", r".*mlp.*"), ("base", "mlp")):
        with pytest.raises(FactorsError, match="holds targets"):
            FactorFolder(_folder(tmp_path / "cache"), base, targets).load()


def test_factors_of_another_base_do_not_fit(tiny_folder: Path, tiny_factors: Factors) -> None:
    with pytest.raises(FactorsError, match="belong to base"):
        SvfModel(load_base(tiny_folder), Factors(tiny_factors.matrices, "0" * 64, tiny_factors.targets))


def test_presets_and_patterns_choose_matrices(tiny_base: Base) -> None:
    names = {targets: target_names(tiny_base.model, targets) for targets in ("mlp", "attention", "all")}
    assert [name.rsplit(".", 1)[1] for name in names["mlp"]] == ["gate_proj", "up_proj", "down_proj"] * 2
    assert [name.rsplit(".", 1)[1] for name in names["attention"]] == ["q_proj", "k_proj", "v_proj", "o_proj"] * 2
    assert sorted(names["all"]) == sorted(names["mlp"] + names["attention"])
    assert target_names(tiny_base.model, r"model\.layers\.1\.mlp\.up_proj") == ["model.layers.1.mlp.up_proj"]


@pytest.mark.parametrize("targets", ["mpl", "attentoin", r"layers\.0", ".*(", r".*\.embed_tokens"])
def test_a_misspelt_pattern_is_refused(tiny_base: Base, targets: str) -> None:
    with pytest.raises(SpecError) as refused:
        target_names(tiny_base.model, targets)
    assert repr(targets) in refused.value.message
    assert refused.value.remedy


def test_fingerprint_is_blind_to_place_and_sharding(tiny_folder: Path, tmp_path: Path) -> None:
    before = fingerprint(tiny_folder)
    assert fingerprint(Path(shutil.copytree(tiny_folder, tmp_path / "elsewhere"))) == before
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(tiny_folder).save_pretrained(sharded, max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert fingerprint(sharded) == before


@pytest.mark.parametrize("what", ["weight", "config"])
def test_fingerprint_sees_every_change(tiny_folder: Path, tmp_path: Path, what: str) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    if what == "weight":
        tensors = safetensors.torch.load_file(copy / "model.safetensors")
        tensors["model.norm.weight"][3] += 1e-3
        safetensors.torch.save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    else:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert fingerprint(copy) != fingerprint(tiny_folder)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        ("no weights", "no weights"),
        ("pickle only", r"pytorch_model\.bin"),
        ("truncated", r"model\.safetensors"),
        ("no config", r"config\.json"),
        ("config is a list", r"config\.json"),
    ],
)
def test_a_base_that_cannot_be_used_is_refused(tiny_folder: Path, tmp_path: Path, harm: str, named: str) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "bad"))
    weights = folder / "model.safetensors"
    if harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif harm in ("no weights", "pickle only"):
        weights.unlink()
        if harm == "pickle only":
            (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    elif harm == "no config":
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text("[]")
    with pytest.raises(BaseModelError, match=named) as refused:
        load_base(folder)
    assert refused.value.remedy


def _harm(path: Path, damage: str) -> None:
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    else:
        path.write_bytes(b"" if damage == "empty" else b"no tensors in here")


def _slowly(matrices: Sequence[StoredMatrix], folder: Path, dtype: torch.dtype) -> Iterator[DecomposedMatrix]:
    """Decompose with a pause after each matrix, so that a kill falls between two."""
    for one in one_by_one(matrices, folder, dtype):
        yield one
        time.sleep(1)


def test_patterns_that_differ_in_punctuation_have_folders_of_their_own(tmp_path: Path) -> None:
    cache = FactorCache(tmp_path)
    folders = {cache.folder("f" * 64, pattern) for pattern in (".*up_proj", r".*\.up_proj", "mlp")}
    assert len(folders) == 3
    assert cache.folder("f" * 64, "mlp").name == f"{'f' * 32}-mlp-float32-2"


if __name__ == "__main__":
    FactorCache(Path(sys.argv[1])).get(_stack(), by=_slowly)
