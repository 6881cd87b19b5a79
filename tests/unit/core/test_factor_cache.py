"""Factors: computed once, resumed after a kill, verified on every load. Bases that cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from zfleet.errors import BaseModelError, FactorsError, SpecError
from zfleet.models.base import Base, load_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.svf_model import SvfModel
from zfleet.svf.cache import FactorCache
from zfleet.svf.factors import Factors, decompose
from zfleet.svf.folder import MANIFEST, FactorFolder
from zfleet.svf.targets import target_names

LAYERS = 6


class Block(nn.Module):
    """One layer with two target matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.ModuleDict({"up": nn.Linear(12, 20, bias=False), "down": nn.Linear(20, 12, bias=False)})
        self.attn = nn.ModuleDict({"q": nn.Linear(12, 12, bias=False)})


class Stack(nn.Module):
    """Layers and a head that is no target."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(12, 30, bias=False)


def _stack() -> Stack:
    torch.manual_seed(0)
    return Stack()


def _get(root: Path, model: nn.Module, targets: str = r".*mlp.*") -> tuple[Factors, list[int]]:
    seen: list[int] = []
    factors = FactorCache(root).get(model, "base", targets, on_layer=lambda done, total: seen.append(done))
    return factors, seen


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


def test_a_weight_that_is_not_finite_is_refused() -> None:
    with pytest.raises(FactorsError, match="NaN"):
        decompose(torch.tensor([[1.0, float("nan")]]), torch.float32)


def test_a_hit_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, seen = _get(tmp_path, _stack())
    assert seen == list(range(1, LAYERS + 1))
    monkeypatch.setattr("zfleet.svf.cache.decompose", _must_not_run)
    again, seen = _get(tmp_path, _stack())
    assert seen == []
    assert again.digest == first.digest
    assert list(again.matrices) == list(first.matrices) == target_names(_stack(), r".*mlp.*")


def test_targets_and_bases_have_folders_of_their_own(tmp_path: Path) -> None:
    cache = FactorCache(tmp_path)
    model = _stack()
    digests = {
        cache.get(model, base, targets, dtype).digest
        for base, targets, dtype in [
            ("one", r".*mlp.*", torch.float32),
            ("two", r".*mlp.*", torch.float32),
            ("one", r".*attn.*", torch.float32),
            ("one", r".*mlp.*", torch.bfloat16),
        ]
    }
    assert len(digests) == 4


def test_a_killed_computation_goes_on_and_gives_the_same_factors(tmp_path: Path) -> None:
    whole, _ = _get(tmp_path / "whole", _stack())
    root = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, __file__, str(root)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not list(root.glob("*/layer-*.safetensors")):
            assert time.monotonic() < deadline, "no layer was written"
            assert child.poll() is None, "the computation ended before it was killed"
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    folder = _folder(root)
    left = list(folder.glob("layer-*.safetensors"))
    assert 0 < len(left) < LAYERS
    assert not (folder / MANIFEST).exists()
    with pytest.raises(FactorsError, match="no factors at"):
        FactorFolder(folder, "base", r".*mlp.*").load()
    times = {path: path.stat().st_mtime_ns for path in left}
    resumed, seen = _get(root, _stack())
    assert resumed.digest == whole.digest
    assert len(seen) == LAYERS
    assert {path: path.stat().st_mtime_ns for path in left} == times, "a finished layer was computed again"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "not safetensors"])
def test_a_half_written_layer_is_computed_again(tmp_path: Path, damage: str) -> None:
    whole, _ = _get(tmp_path, _stack())
    (_folder(tmp_path) / MANIFEST).unlink()
    _harm(_folder(tmp_path) / "layer-0002.safetensors", damage)
    assert _get(tmp_path, _stack())[0].digest == whole.digest


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "not safetensors", "missing"])
def test_a_damaged_layer_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    _get(tmp_path, _stack())
    _harm(_folder(tmp_path) / "layer-0003.safetensors", damage)
    with pytest.raises(FactorsError, match=r"layer-0003\.safetensors") as refused:
        _get(tmp_path, _stack())
    assert "compute the factors again" in refused.value.remedy


def test_no_flipped_byte_goes_unnoticed(tmp_path: Path) -> None:
    whole, _ = _get(tmp_path, _stack())
    for file in ("layer-0000.safetensors", MANIFEST):
        path = _folder(tmp_path) / file
        data = path.read_bytes()
        for place in range(0, len(data), 7):
            flipped = bytearray(data)
            flipped[place] ^= 0x02
            path.write_bytes(bytes(flipped))
            try:
                loaded, _ = _get(tmp_path, _stack())
            except FactorsError:
                continue
            assert loaded.digest == whole.digest, f"byte {place} of {file}"
            assert list(loaded.matrices) == list(whole.matrices), f"byte {place} of {file}"
        path.write_bytes(data)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"base": "base", "targets": ".*mlp.*"}'])
def test_a_damaged_manifest_is_refused_by_name(tmp_path: Path, content: str) -> None:
    _get(tmp_path, _stack())
    (_folder(tmp_path) / MANIFEST).write_text(content)
    with pytest.raises(FactorsError, match=r"factors\.json"):
        _get(tmp_path, _stack())


def test_a_folder_of_another_base_or_other_targets_is_refused(tmp_path: Path) -> None:
    _get(tmp_path, _stack())
    for base, targets in (("other", r".*mlp.*"), ("base", "mlp")):
        with pytest.raises(FactorsError, match="holds targets"):
            FactorFolder(_folder(tmp_path), base, targets).load()


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


def _must_not_run(*_: object) -> None:
    raise AssertionError("decomposed again")


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


def _slowly(root: Path) -> None:
    """Compute with a pause after each layer, so that a kill falls between two."""
    FactorCache(root).get(_stack(), "base", r".*mlp.*", on_layer=lambda done, total: time.sleep(1.0))


if __name__ == "__main__":
    _slowly(Path(sys.argv[1]))


def test_patterns_that_differ_in_punctuation_have_folders_of_their_own(tmp_path: Path) -> None:
    cache = FactorCache(tmp_path)
    folders = {cache.folder("f" * 64, pattern, torch.float32) for pattern in (".*up_proj", r".*\.up_proj", "mlp")}
    assert len(folders) == 3
    assert cache.folder("f" * 64, "mlp", torch.float32).name == f"{'f' * 32}-mlp-float32"
