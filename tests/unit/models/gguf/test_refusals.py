"""GGUF files that zfleet refuses, each by what is wrong with it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFWriter

from zfleet.errors import BaseModelError
from zfleet.models.base import find_base, load_base
from zfleet.models.gguf.convert import convert
from zfleet.testing.gguf_files import Tensors, save_gguf

Refusal = Callable[[Path], BaseModelError]


def test_files_that_are_no_gguf_or_end_early(refusal: Refusal, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    bad = tmp_path / "bad.gguf"
    for data in (b"", b"GG", b"PK\3\4" + whole[4:]):
        bad.write_bytes(data)
        assert "is no GGUF file: it begins with" in refusal(bad).message
    for length in (4, 8, 23, 24, 60, 500, 3_000, 9_000, len(whole) // 2, len(whole) - 40):
        bad.write_bytes(whole[:length])
        assert f"{bad} is truncated or damaged" in refusal(bad).message
    error = refusal(tmp_path / "missing.gguf")
    assert "no folder and no GGUF file" in error.message


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({"blk.1.attn_q.weight": None}, "holds no tensor blk.1.attn_q.weight"),
        ({"token_embd.weight": None}, "holds no tensor token_embd.weight"),
        ({"blk.0.attn_q.bias": np.zeros(64, np.float32)}, "holds no tensor blk.0.attn_k.bias"),
        (
            {"blk.0.ffn_gate_exps.weight": np.zeros((2, 32), np.float32)},
            "holds blk.0.ffn_gate_exps.weight, which a llama",
        ),
        ({"blk.0.ffn_up.weight": np.zeros((95, 64), np.float32)}, "is [95, 64], its metadata say [96, 64]"),
    ],
    ids=["a matrix", "embeddings", "half of the biases", "an expert", "a shape"],
)
def test_tensors_that_do_not_make_the_model(
    refusal: Refusal, tensors: dict[str, Any], error: str, llama: Path, tmp_path: Path
) -> None:
    def change(written: Tensors) -> None:
        for name, numbers in tensors.items():
            if numbers is None:
                del written[name]
            else:
                written[name] = numbers, "F32"

    assert error in refusal(save_gguf(llama, tmp_path / "bad.gguf", tensors=change)).message


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("general.architecture", "mamba", "GGUF architecture 'mamba', which zfleet does not support"),
        ("split.count", 3, "is one part of 3"),
        ("llama.expert_count", 8, "sets llama.expert_count to 8"),
        ("llama.attention.sliding_window", 64, "sets llama.attention.sliding_window to 64"),
        ("llama.rope.dimension_count", 16, "sets llama.rope.dimension_count to 16"),
        ("llama.attention.value_length", 16, "sets llama.attention.value_length to 16"),
        ("llama.rope.scaling.type", "yarn", "sets llama.rope.scaling.type to 'yarn'"),
        ("llama.block_count", None, "says None for llama.block_count"),
        ("llama.block_count", 4_000_000_000, "says 4000000000 for llama.block_count, and holds tensors of 2"),
        ("llama.block_count", 1, "says 1 for llama.block_count, and holds tensors of 2"),
        ("llama.rope.freq_base", math.nan, "says nan for llama.rope.freq_base"),
        ("llama.rope.freq_base", 0.0, "says 0.0 for llama.rope.freq_base"),
        ("llama.attention.layer_norm_rms_epsilon", -1.0, "says -1.0 for llama.attention.layer_norm_rms_epsilon"),
        ("general.architecture", "", "names no GGUF architecture"),
        ("llama.attention.head_count", 0, "cannot be built"),
        ("llama.attention.head_count", [2, 1], "says [2, 1] for llama.attention.head_count"),
    ],
)
def test_metadata_that_zfleet_cannot_express(
    refusal: Refusal, key: str, value: Any, error: str, llama: Path, tmp_path: Path
) -> None:
    def change(writer: GGUFWriter) -> None:
        writer.kv_data[0].pop(key, None)
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)

    assert error in refusal(save_gguf(llama, tmp_path / "bad.gguf", keys=change)).message


@pytest.mark.parametrize("version", [1, 99])
def test_a_version_that_zfleet_does_not_read(refusal: Refusal, version: int, file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4:8] = version.to_bytes(4, "little")
    (tmp_path / "bad.gguf").write_bytes(data)
    assert f"is GGUF version {version}; zfleet reads 2 and 3" in refusal(tmp_path / "bad.gguf").message


def test_a_weight_that_is_not_finite(refusal: Refusal, llama: Path, tmp_path: Path) -> None:
    def change(written: Tensors) -> None:
        numbers = np.zeros((64, 64), np.float32)
        numbers[3, 5] = np.nan
        written["blk.0.attn_q.weight"] = numbers, "F32"

    error = refusal(save_gguf(llama, tmp_path / "bad.gguf", tensors=change))
    assert "blk.0.attn_q.weight of the GGUF file holds NaN" in error.message


def test_a_setting_that_is_off_does_not_matter(llama: Path, tmp_path: Path) -> None:
    file = save_gguf(llama, tmp_path / "fine.gguf", keys=lambda writer: writer.add_expert_count(0))
    assert load_base(convert(file)).model.config.model_type == "llama"


@pytest.mark.parametrize("kind", ["Q8_K", "Q8_1", "Q1_0", "NVFP4", "I32"])
def test_a_type_of_tensors_that_is_not_supported(refusal: Refusal, kind: str, llama: Path, tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        of_kind = GGMLQuantizationType[kind]
        block = np.zeros((1, GGML_QUANT_SIZES[of_kind][1]), np.uint8)
        writer.add_tensor("blk.0.odd.weight", block, raw_dtype=of_kind)

    error = refusal(save_gguf(llama, tmp_path / "bad.gguf", keys=add))
    assert f"holds blk.0.odd.weight of type {kind}, which zfleet does not dequantise" in error.message
    assert "Q4_K" in error.remedy


def test_a_type_of_tensors_that_nobody_knows(refusal: Refusal, file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    name = b"blk.0.ffn_down.weight"
    # Behind the name: the number of dimensions, and two dimensions.
    place = data.index(name) + len(name) + 4 + 2 * 8
    assert data[place] == GGMLQuantizationType.Q8_0
    data[place] = 4
    (tmp_path / "bad.gguf").write_bytes(data)
    error = refusal(tmp_path / "bad.gguf")
    assert "holds a tensor of the unknown type 4" in error.message
    assert "Q4_K" in error.remedy


def test_a_file_of_another_byte_order(refusal: Refusal, llama: Path, tmp_path: Path) -> None:

    writer = GGUFWriter(tmp_path / "big.gguf", "llama", endianess=GGUFEndian.BIG)
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "byte order" in refusal(tmp_path / "big.gguf").message


def test_a_folder_of_gguf_files_names_one(file: Path) -> None:
    folder = file.parent / "files"
    folder.mkdir()
    shutil.copy(file, folder)
    with pytest.raises(BaseModelError, match=r"holds GGUF files.*files/tiny\.gguf"):
        load_base(find_base(str(folder)))
