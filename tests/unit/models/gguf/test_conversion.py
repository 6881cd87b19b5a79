"""The base that a GGUF file becomes computes the same function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, RopeScalingType, dequantize, quantize
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from zfleet.errors import BaseModelError
from zfleet.models import weight_files
from zfleet.models.base import base_name, find_base, load_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.gguf import weights
from zfleet.models.gguf.config import read_config
from zfleet.models.gguf.convert import convert
from zfleet.models.gguf.folders import converted_folder, read_origin
from zfleet.models.gguf.read import TYPES, GgufFile
from zfleet.models.gguf.weights import plan_weights
from zfleet.testing.gguf_files import Tensors, save_gguf
from zfleet.testing.tiny_bases import FAMILIES, save_tiny
from zfleet.testing.tokenizers import byte_level

Refusal = Callable[[Path], BaseModelError]

KINDS = ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Of those that the gguf package also quantises to."""

IDS = torch.arange(5, 25).reshape(2, 10)


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    result: Tensor = model(input_ids=IDS).logits
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_a_float32_file_is_the_base_that_it_was_made_of(family: str, tmp_path: Path) -> None:
    original = save_tiny(family, tmp_path / "base", tokenizer=byte_level())
    folder = find_base(str(save_gguf(original, tmp_path / "base.gguf")))
    made, expected = load_base(folder), load_base(original)
    assert made.model.config.model_type == ("llama" if family == "mistral" else expected.model.config.model_type)
    assert made.context == expected.context
    assert torch.equal(logits(made.model), logits(expected.model))
    # As the tokenizer was, not as transformers would rebuild it for the family.
    assert made.tokenizer("the é  日 12")["input_ids"] == byte_level()("the é  日 12")["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_dequantised_weights(kind: str, llama: Path, tmp_path: Path) -> None:
    expected = AutoModelForCausalLM.from_pretrained(llama)
    for parameter in expected.parameters():
        if parameter.ndim > 1:
            of_kind = GGMLQuantizationType[kind]
            parameter.data = torch.from_numpy(
                np.array(dequantize(quantize(parameter.detach().numpy(), of_kind), of_kind))
            )
    made = load_base(find_base(str(save_gguf(llama, tmp_path / "tiny.gguf", kind))))
    assert torch.equal(logits(made.model), logits(expected))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transformers_reads_the_same_function(llama: Path, file: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    assert torch.equal(logits(load_base(convert(file)).model), logits(theirs))


def test_every_type_that_is_offered_can_be_dequantised() -> None:

    for kind in TYPES:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        assert dequantize(np.zeros((1, size), np.uint8), GGMLQuantizationType[kind]).shape == (1, block)


def test_numbers_keep_a_type_that_holds_them_unless_the_model_is_large(llama: Path, tmp_path: Path) -> None:
    types = {"Q4_0": torch.float32, "F16": torch.float32, "F32": torch.float32, "BF16": torch.bfloat16}
    for kind, dtype in types.items():
        file = GgufFile(save_gguf(llama, tmp_path / f"{kind}.gguf", kind))
        small = {weight.name: weight.dtype for weight in plan_weights(file, read_config(file))}
        large = {weight.name: weight.dtype for weight in plan_weights(file, read_config(file), float32_parameters=1)}
        assert small["lm_head.weight"] == dtype
        assert large["lm_head.weight"] == (torch.float32 if kind == "F32" else torch.bfloat16)
        assert small["model.norm.weight"] == large["model.norm.weight"] == torch.float32


def test_a_large_base_is_written_in_several_files(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = convert(file)
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(weight_files, "_SHARD_BYTES", 2**16)
    parts = convert(file)
    assert len(list(whole.glob("*.safetensors"))) == 1
    assert len(list(parts.glob("*.safetensors"))) > 2
    assert fingerprint(parts) == fingerprint(whole)
    assert torch.equal(logits(load_base(parts).model), logits(load_base(whole).model))


def test_the_origin_is_recorded_and_is_no_part_of_the_fingerprint(llama: Path, tmp_path: Path) -> None:
    def keys(writer: GGUFWriter) -> None:
        writer.add_name("Tiny")
        writer.add_license("mit")
        writer.add_eot_token_id(7)

    folder = convert(save_gguf(llama, tmp_path / "My Tiny.Q8_0.gguf", "Q8_0", keys=keys))
    origin = read_origin(folder)
    assert (origin.file, origin.architecture, origin.name, origin.licence) == (
        "My Tiny.Q8_0.gguf",
        "llama",
        "Tiny",
        "mit",
    )
    assert origin.types == {"Q8_0": 16, "F32": 5}
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert origin.parameters == sum(weight.numel() for weight in model.parameters())
    assert model.generation_config.eos_token_id == [byte_level().eos_token_id, 7]
    assert converted_folder(origin.sha256) == folder
    (folder / "origin.json").write_text("{}")
    assert fingerprint(folder) == origin.fingerprint
    with pytest.raises(BaseModelError, match=r"origin\.json cannot be read"):
        read_origin(folder)
    assert {one.stat().st_mode for one in folder.iterdir()} == {(folder / "config.json").stat().st_mode}
    assert base_name("/there/My Tiny.Q8_0.gguf") == "My-Tiny.Q8_0"


def scaled(folder: Path, **rope: Any) -> Path:
    """Write a tiny Llama with scaled rotary embeddings."""
    return save_tiny("llama", folder / "scaled", tokenizer=byte_level(), rope_parameters={"rope_theta": 5e5, **rope})


def test_rotary_frequencies_are_scaled_as_in_llama_3(refusal: Refusal, tmp_path: Path) -> None:
    steps = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    base = scaled(tmp_path, rope_type="llama3", factor=8.0, **steps)
    expected = load_base(base).model
    plain = 1.0 / 5e5 ** (torch.arange(0, 32, 2) / 32)
    factors = (plain / expected.get_buffer("model.rotary_emb.inv_freq")).numpy()
    assert sorted({1.0, *factors.tolist()})[1:-1], (
        "some frequency is between those that are scaled and those that are not"
    )

    def add(tensors: Tensors) -> None:
        tensors["rope_freqs.weight"] = factors, "F32"

    def add_others(tensors: Tensors) -> None:
        tensors["rope_freqs.weight"] = factors + np.float32(0.5), "F32"

    other = save_gguf(base, tmp_path / "other.gguf", tensors=add_others)
    assert "rope_freqs.weight in another way" in refusal(other).message
    made = load_base(convert(save_gguf(base, tmp_path / "scaled.gguf", tensors=add))).model
    assert torch.equal(logits(made), logits(expected))
    assert not torch.equal(logits(made), logits(load_base(scaled(tmp_path / "plain", rope_type="default")).model))


def test_rotary_frequencies_are_scaled_linearly(tmp_path: Path) -> None:
    def scale(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    base = scaled(tmp_path, rope_type="linear", factor=4.0)
    made = load_base(convert(save_gguf(base, tmp_path / "scaled.gguf", keys=scale))).model
    assert torch.equal(logits(made), logits(load_base(base).model))


def test_a_weight_is_dequantised_in_chunks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan_weights(GgufFile(file), read_config(GgufFile(file)))
    whole = {weight.name: weight.read() for weight in planned}
    monkeypatch.setattr(weights, "_CHUNK_NUMBERS", 200)
    for weight in planned:
        assert torch.equal(weight.read(), whole[weight.name])
    with safe_open(convert(file) / "model.safetensors", "pt") as stored:
        assert {name: list(stored.get_tensor(name).shape) for name in stored.keys()} == {  # noqa: SIM118
            weight.name: list(weight.shape) for weight in planned
        }
