"""A merged checkpoint answers in plain transformers as our engine does, and comes back as the same z."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from zfleet.config.specs import EngineSpec
from zfleet.engine.blocking import SyncEngine
from zfleet.engine.torch_engine.engine import TorchEngine
from zfleet.errors import FormatError
from zfleet.formats.merged_export import export_merged
from zfleet.formats.merged_import import read_checkpoint
from zfleet.formats.projection import Residual
from zfleet.models import weight_files
from zfleet.models.base import load_base
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector
from zfleet.testing.exports import FactoredBase
from zfleet.testing.parity import greedy_answers, random_prompts, random_z
from zfleet.testing.tiny_bases import FAMILIES, save_tiny
from zfleet.testing.tiny_vision import save_tiny_vision

IDS = torch.randint(5, 60, (2, 24), generator=torch.Generator().manual_seed(0))


def _export(based: FactoredBase, z: ZVector, out: Path, **options: object) -> list[Residual]:
    return export_merged(z, based.factors, based.folder, out, **options)  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_gives_our_tokens(family: str, out: Path, tmp_path: Path) -> None:
    based = FactoredBase.tiny(family, tmp_path)
    z = random_z(based.factors.load(), 1)
    rows = _export(based, z, out)
    assert [row.matrix for row in rows] == based.factors.names
    assert Residual.total(rows).relative < 1e-6
    prompts = random_prompts(60, [3, 9, 17])
    with SyncEngine(TorchEngine(SvfModel(load_base(based.folder), based.factors.load()), EngineSpec())) as engine:
        answers = greedy_answers(engine, prompts, [z] * len(prompts), max_tokens=16)
        plain = greedy_answers(engine, prompts, [None] * len(prompts), max_tokens=16)
    merged: Any = AutoModelForCausalLM.from_pretrained(out)
    merged.generation_config.eos_token_id = None  # as in our requests: every answer has all tokens
    for prompt, answer, other in zip(prompts, answers, plain, strict=True):
        grown = merged.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=len(answer))
        assert tuple(grown[0, len(prompt) :].tolist()) == tuple(answer)
        assert answer != other, "the z of this test changes nothing"
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(based.folder).get_vocab()


@pytest.mark.parametrize("targets", ["mlp", "attention", "all"])
def test_a_merged_expert_comes_back(targets: str, tmp_path: Path, out: Path, tiny_folder: Path) -> None:
    based = FactoredBase.of(tiny_folder, tmp_path / "factors", targets)
    z = random_z(based.factors.load(), 2)
    _export(based, z, out)
    changed = read_checkpoint(out, based.folder, "all")
    assert set(changed.matrices) == set(based.factors.names)
    assert changed.others == ()
    back, residuals = changed.z_on(based.factors)
    assert Residual.total(residuals).relative < 1e-4, "more than the rounding of W'"
    assert all(torch.allclose(back.values[name], z.values[name], atol=1e-3) for name in z.values)


def test_weights_with_z_of_1_stay_bit_for_bit(
    based: FactoredBase, z: ZVector, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_files, "_SHARD_BYTES", 2**15)
    changed = based.factors.names[1]
    values = {name: one if name == changed else torch.ones_like(one) for name, one in z.values.items()}
    seen: list[int] = []
    _export(based, ZVector(values, z.base, z.factors, z.targets), out, advance=seen.append, metadata={"zfleet": "x"})
    before = safetensors.torch.load_file(based.folder / "model.safetensors")
    shards = sorted(out.glob("*.safetensors"))
    after = {key: tensor for shard in shards for key, tensor in safetensors.torch.load_file(shard).items()}
    assert len(shards) > 2
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == [f"{changed}.weight"]
    assert sum(seen) == sum(tensor.nbytes for tensor in before.values())
    with safetensors.safe_open(shards[0], "pt") as file:
        assert file.metadata() == {"format": "pt", "zfleet": "x"}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_type_adds_the_rounding_that_is_reported(
    based: FactoredBase, z: ZVector, out: Path, dtype: torch.dtype
) -> None:
    (based.folder / "LICENSE").write_text("for all")
    try:
        rows = _export(based, z, out, dtype=dtype)
    finally:
        (based.folder / "LICENSE").unlink()
    assert (out / "LICENSE").read_text() == "for all"
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == dtype
    for row in rows:
        exact = based.factors.matrix(row.matrix).merged(z.values[row.matrix])
        stored = model.get_parameter(f"{row.matrix}.weight").double()
        assert float((stored - exact).norm()) == pytest.approx(row.residual, rel=1e-3)
    # A base in 16 bits, whose other weights are equal in this precision: only the matrices have changed.
    changed = read_checkpoint(out, based.folder, "all")
    assert changed.others == ()
    _, residuals = changed.z_on(based.factors)
    assert Residual.total(residuals).residual == pytest.approx(Residual.total(rows).residual, rel=0.1)


def test_a_vision_language_model_is_merged_whole(tiny_folder: Path, out: Path, tmp_path: Path) -> None:
    seeing = FactoredBase.of(save_tiny_vision("llava", tiny_folder, tmp_path / "eyes"), tmp_path / "factors", "mlp")
    z = random_z(seeing.factors.load(), 1)
    _export(seeing, z, out)
    model = AutoModelForImageTextToText.from_pretrained(out)
    with torch.no_grad():
        found = model(input_ids=IDS).logits
    expected = seeing.logits(z, IDS, torch.float32)
    assert torch.allclose(found, expected, atol=1e-4)
    back, _ = read_checkpoint(out, seeing.folder, "all").z_on(seeing.factors)
    assert all(torch.allclose(back.values[name], z.values[name], atol=1e-3) for name in z.values)


def test_what_a_checkpoint_cannot_hold_is_refused(tmp_path: Path, out: Path) -> None:
    tied = FactoredBase.of(save_tiny("llama-tied", tmp_path / "tied"), tmp_path / "factors", r"lm_head|.*\.up_proj")
    with pytest.raises(FormatError, match="lm_head shares its weight"):
        _export(tied, random_z(tied.factors.load(), 1), out)
    large = FactoredBase.of(save_tiny("llama", tmp_path / "large"), tmp_path / "factors", "mlp")
    values = {name: 1e6 * torch.ones(rank) for name, rank in zip(*_sizes(large), strict=True)}
    z = ZVector(values, large.factors.base, large.factors.digest, "mlp")
    with pytest.raises(FormatError, match=r"torch\.float16 cannot hold"):
        _export(large, z, out, dtype=torch.float16)


def _sizes(based: FactoredBase) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return based.factors.layout.names, based.factors.layout.ranks


Damage = Callable[[dict[str, Tensor]], dict[str, Tensor]]
NORM, UP = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def tuned(based: FactoredBase, tmp_path: Path) -> Callable[[Damage], Path]:
    """Copy the base, with other weights."""

    def make(damage: Damage) -> Path:
        folder = Path(shutil.copytree(based.folder, tmp_path / "tuned"))
        weights = damage(safetensors.torch.load_file(folder / "model.safetensors"))
        safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


def test_what_no_z_can_express_is_residual(based: FactoredBase, tuned: Callable[[Damage], Path]) -> None:
    folder = tuned(lambda weights: weights | {NORM: weights[NORM] + 0.5, UP: weights[UP] + 0.01})
    changed = read_checkpoint(folder, based.folder, "all")
    assert set(changed.matrices) == {UP.removesuffix(".weight")}
    (norm,) = changed.others
    assert (norm.matrix, norm.residual) == (NORM, norm.change)
    assert norm.change == pytest.approx(4.0)
    z, residuals = changed.z_on(based.factors)
    assert [row.matrix for row in residuals] == [UP.removesuffix(".weight"), NORM]
    assert 0.5 < residuals[0].relative < 1
    assert bool((z.values[UP.removesuffix(".weight")] != 1).any())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights, "the very weights of the base"),
        (lambda weights: {key: one for key, one in weights.items() if key != UP}, "holds no weight of"),
        (lambda weights: weights | {"model.more.weight": torch.ones(3)}, "model.more.weight"),
        (lambda weights: weights | {UP: weights[UP][:5]}, r"\[5, 64\]"),
        (lambda weights: weights | {UP: weights[UP].to(torch.int8)}, "quantized"),
        (lambda weights: weights | {UP: weights[UP] * torch.nan}, "up_proj.*NaN"),
        (lambda weights: weights | {NORM: weights[NORM] * torch.inf}, "norm.*NaN"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    based: FactoredBase, tuned: Callable[[Damage], Path], damage: Damage, message: str
) -> None:
    with pytest.raises(FormatError, match=message) as refused:
        read_checkpoint(tuned(damage), based.folder, "all").z_on(based.factors)
    assert refused.value.remedy


def test_a_checkpoint_of_another_model_is_refused(based: FactoredBase, tuned: Callable[[Damage], Path]) -> None:
    folder = tuned(lambda weights: weights | {UP: weights[UP] + 0.01})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    with pytest.raises(FormatError, match=r"rms_norm_eps 0\.5"):
        read_checkpoint(folder, based.folder, "all")
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 3, "dtype": "bfloat16"}))
    assert len(read_checkpoint(folder, based.folder, "all").matrices) == 1
    (folder / "config.json").unlink()
    with pytest.raises(FormatError, match=r"config.json cannot be read"):
        read_checkpoint(folder, based.folder, "all")
