"""A LoRA adapter that PEFT trained comes in as the nearest z, goes out again within its residual, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from zfleet.errors import FormatError
from zfleet.formats.lora_export import CONFIG, WEIGHTS, export_lora
from zfleet.formats.lora_import import LoraAdapter, is_adapter, read_adapter
from zfleet.formats.projection import Residual
from zfleet.models.base import load_base
from zfleet.models.matrices import module_paths, target_matrices
from zfleet.svf.directions import largest_directions
from zfleet.svf.zvector import ZVector
from zfleet.testing.exports import FactoredBase, delta_of
from zfleet.testing.tiny_bases import FAMILIES

Tensors = dict[str, Tensor]


def _train(based: FactoredBase, folder: Path, **settings: Any) -> PeftModel:
    """Train an adapter with PEFT: three steps on random tokens, enough that B is not 0."""
    torch.manual_seed(0)
    base = load_base(based.folder).model
    options = {"r": 4, "lora_alpha": 8, "target_modules": based.factors.names, "lora_dropout": 0.0, **settings}
    model = get_peft_model(base, LoraConfig(**options))
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=0.02)
    ids = torch.randint(5, 60, (4, 16))
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return model


def _read(based: FactoredBase, folder: Path) -> LoraAdapter:
    matrices = target_matrices(based.folder, based.factors.base, based.factors.targets)
    return read_adapter(folder, matrices, module_paths(based.folder, based.factors.names))


def _change(based: FactoredBase, z: ZVector, name: str) -> Tensor:
    factors = based.factors.matrix(name)
    return factors.merged(z.values[name]) - factors.merged(torch.ones_like(factors.s))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, {}) for family in FAMILIES),
        ("llama", {"use_rslora": True}),
        ("llama", {"target_modules": ["q_proj", "v_proj"]}),
        ("llama", {"rank_pattern": {r"layers.0.mlp.\w+": 2, "q_proj": 7}, "alpha_pattern": {"up_proj": 5}}),
    ],
)
def test_a_trained_adapter_comes_in_with_its_residual_and_goes_out_within_it(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    based = FactoredBase.tiny(family, tmp_path)
    trained = _train(based, tmp_path / "lora", **settings)
    assert is_adapter(tmp_path / "lora")
    z, residuals = _read(based, tmp_path / "lora").z_on(based.factors)
    out = tmp_path / "out"
    out.mkdir()
    paths = module_paths(based.folder, based.factors.names)
    export_lora(z, based.factors, paths, out, keep=partial(largest_directions, k=2**20), dtype=torch.float64)
    again = PeftModel.from_pretrained(
        load_base(based.folder, dtype=torch.float64).model, str(out), autocast_adapter_dtype=False
    )
    for row in residuals:
        learned = delta_of(trained, row.matrix)
        exported = delta_of(again, row.matrix)
        assert row.change == pytest.approx(float(learned.norm()), rel=1e-5)
        assert float((learned - exported).norm()) == pytest.approx(row.residual, rel=1e-5)
        assert 0.1 < row.relative < 1
    learned_modules = {
        name.removesuffix(".lora_A.default.weight").removeprefix("base_model.model.")
        for name, _ in trained.named_parameters()
        if "lora_A" in name
    }
    assert {row.matrix for row in residuals} == learned_modules
    for name in set(based.factors.names) - learned_modules:
        assert bool((z.values[name] == 1).all())
    # What went out comes in again with nothing left out.
    back, nothing = _read(based, out).z_on(based.factors)
    assert Residual.total(nothing).relative < 1e-5
    assert all(torch.allclose(back.values[name], z.values[name], atol=1e-4) for name in z.values)


@pytest.fixture(scope="module")
def trained(based: FactoredBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    _train(based, folder)
    return folder


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """Copy the trained adapter, for a test to damage."""
    return Path(shutil.copytree(trained, tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_dora": True}, "use_dora to True"),
        ({"bias": "lora_only"}, "bias to 'lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"a_field_of_tomorrow": 3}, "a_field_of_tomorrow to 3"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base's weights too"),
        ({"r": 0}, "r to 0"),
        ({"r": "4"}, "r to '4'"),
        ({"r": 5}, "rank 5"),
        ({"lora_alpha": float("nan")}, "lora_alpha to nan"),
        ({"lora_alpha": None}, "lora_alpha to None"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
    ],
)
def test_a_config_that_is_no_plain_lora_is_refused(
    based: FactoredBase, adapter: Path, changes: dict[str, Any], message: str
) -> None:
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps(config | changes))
    with pytest.raises(FormatError, match=message) as refused:
        _read(based, adapter)
    assert refused.value.remedy


def _rename(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key.replace(old, new): tensor for key, tensor in tensors.items()}


def _with(**more: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {key.replace("__", "."): tensor for key, tensor in more.items()}


def _each(change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: change(tensor).contiguous() for key, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_with(extra=torch.ones(1)), "holds extra"),
        (_with(base_model__model__lm_head__lora_A__weight=torch.ones(4, 64)), "lm_head"),
        (_with(base_model__model__lm_head__weight=torch.ones(4, 64)), "lm_head.weight"),
        (_rename("mlp.up_proj", "mlp.outside"), "mlp.outside"),
        (_rename("lora_A", "lora_embedding_A"), "lora_embedding_A"),
        (_rename("lora_B.weight", "lora_magnitude_vector"), "lora_magnitude_vector"),
        (_each(lambda tensor: tensor[:, :3]), r"is torch.float32 \[4, 3\]"),
        (_each(lambda tensor: tensor.to(torch.int32)), "int32"),
        (_each(lambda tensor: tensor[0]), r"\[64\]"),
        (lambda tensors: {key: tensor for key, tensor in tensors.items() if "lora_B" not in key}, "no lora_B"),
        (lambda tensors: {}, "holds no LoRA matrix"),
        (_with(big=torch.ones(2**23)), "bytes; adapters of full rank"),
    ],
)
def test_weights_that_do_not_fit_the_base_are_refused(
    based: FactoredBase, adapter: Path, damage: Callable[[Tensors], Tensors], message: str
) -> None:
    safetensors.torch.save_file(damage(safetensors.torch.load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    with pytest.raises(FormatError, match=message) as refused:
        _read(based, adapter)
    assert refused.value.remedy


def test_a_file_of_10_gb_is_refused_by_its_size(based: FactoredBase, adapter: Path) -> None:
    with (adapter / WEIGHTS).open("r+b") as file:
        file.truncate(10 * 2**30)  # sparse: it takes no room
    with pytest.raises(FormatError, match="10,737,418,240 bytes"):
        _read(based, adapter)


def test_values_that_are_not_finite_are_refused(based: FactoredBase, adapter: Path) -> None:
    tensors = safetensors.torch.load_file(adapter / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = torch.nan
    safetensors.torch.save_file(tensors, adapter / WEIGHTS)
    with pytest.raises(FormatError, match="NaN or infinite"):
        _read(based, adapter).z_on(based.factors)


def test_files_that_are_cut_or_missing_are_refused(based: FactoredBase, adapter: Path) -> None:
    data = (adapter / WEIGHTS).read_bytes()
    for length in (0, 5, 100, len(data) - 1):
        (adapter / WEIGHTS).write_bytes(data[:length])
        with pytest.raises(FormatError, match="truncated or damaged"):
            _read(based, adapter)
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(FormatError, match="a pickle that is not loaded"):
        _read(based, adapter)
    (adapter / CONFIG).write_text("{")
    with pytest.raises(FormatError, match="no JSON"):
        _read(based, adapter)
    (adapter / CONFIG).write_text(" " * 2**21)
    with pytest.raises(FormatError, match="more than any adapter's config"):
        _read(based, adapter)
    (adapter / CONFIG).unlink()
    with pytest.raises(FormatError, match="cannot be read"):
        _read(based, adapter)
    assert not is_adapter(adapter)
