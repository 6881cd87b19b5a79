"""A base whose weights are maps of files is the base that transformers loads; files are read in pieces."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from zfleet.errors import BaseModelError
from zfleet.models.base import load_base
from zfleet.models.fingerprint import fingerprint, read_config, weight_files
from zfleet.models.mapped_weights import mapped_weights
from zfleet.models.shell import language_tower
from zfleet.svf.digest import tensor_bytes
from zfleet.testing.tiny_bases import FAMILIES, save_tiny
from zfleet.testing.tiny_vision import save_tiny_vision

WEIGHTS, EMBEDDINGS = "model.safetensors", "model.embed_tokens.weight"
VISION = ("llava", "llava_next")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    # As if every tensor were large.
    monkeypatch.setattr("zfleet.svf.prepared._SMALL", 0)
    monkeypatch.setattr("zfleet.remembered.SMALL", 0)
    return tmp_path / "cache"


def _save(family: str, root: Path) -> Path:
    if family not in VISION:
        return save_tiny(family, root / "base")
    return save_tiny_vision(family, save_tiny("llama", root / "tower"), root / "base")  # type: ignore[arg-type]


def _maps() -> list[tuple[int, int, str, str]]:
    """Begin, end, rights and file of each mapping of this process."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_, last = line.split()
        begin, end = (int(place, 16) for place in span.split("-"))
        found.append((begin, end, rights, last))
    return found


def _mapped(tensor: Tensor) -> tuple[str, str]:
    """Rights and file of the mapping that a tensor lies in."""
    return next((rights, file) for begin, end, rights, file in _maps() if begin <= tensor.data_ptr() < end)


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return model.named_parameters(remove_duplicate=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [*FAMILIES, *VISION])
def test_a_mapped_base_is_the_one_that_transformers_loads(
    family: str, dtype: torch.dtype, tmp_path: Path, cache: Path
) -> None:
    folder = _save(family, tmp_path)
    kind = AutoModelForImageTextToText if family in VISION else AutoModelForCausalLM
    copied: PreTrainedModel = kind.from_pretrained(folder, dtype=dtype).eval()
    expected = language_tower(copied) if family in VISION else copied
    base = load_base(folder, dtype=dtype)
    found = dict(_weights(base.model))
    assert found.keys() == dict(_weights(expected)).keys()
    for name, weight in _weights(expected):
        assert found[name].dtype == dtype
        assert torch.equal(found[name], weight), name
        rights, file = _mapped(found[name])
        assert rights == "r--s", name
        assert Path(file).is_relative_to(folder if dtype == torch.float32 else cache / "weights"), name
    buffers = dict(base.model.named_buffers())
    assert buffers, "there is nothing to compare"
    for name, buffer in expected.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    tied = base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight
    assert tied == (family in ("gemma", "llama-tied"))
    assert base.model.generation_config.to_dict() == expected.generation_config.to_dict()
    assert not base.model.training
    ids = torch.tensor([[5, 7, 9, 11]])
    with torch.no_grad():
        assert torch.equal(base.model(input_ids=ids).logits, expected(input_ids=ids).logits)


def test_a_copy_in_another_dtype_is_made_once(tmp_path: Path, cache: Path) -> None:
    folder = save_tiny("llama", tmp_path / "base")
    load_base(folder, dtype=torch.bfloat16)
    (copy,) = (cache / "weights").glob("*.safetensors")
    made = copy.stat()
    load_base(folder, dtype=torch.bfloat16)
    assert copy.stat() == made
    flipped = bytearray(copy.read_bytes())
    flipped[-1] ^= 1
    copy.write_bytes(flipped)
    again = load_base(folder, dtype=torch.bfloat16)
    assert copy.stat().st_ino != made.st_ino, "a damaged copy was used"
    assert torch.equal(again.model.get_parameter(EMBEDDINGS), _stored_embeddings(folder).bfloat16())


def test_only_what_is_in_another_dtype_is_copied(tmp_path: Path, cache: Path) -> None:
    folder = save_tiny("llama", tmp_path / "base")
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    mixed = {name: tensor if tensor.ndim == 1 else tensor.bfloat16() for name, tensor in tensors.items()}
    safetensors.torch.save_file(mixed, folder / WEIGHTS, {"format": "pt"})
    weights = mapped_weights(folder, torch.bfloat16)
    for name, weight in weights.items():
        assert torch.equal(weight, tensors[name].bfloat16())
        assert Path(_mapped(weight)[1]).is_relative_to(cache if weight.ndim == 1 else folder)


def test_small_weights_in_another_dtype_stay_in_memory(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zfleet.svf.prepared._SMALL", 10**9)
    folder = save_tiny("llama", tmp_path / "base")
    base = load_base(folder, dtype=torch.bfloat16)
    assert torch.equal(base.model.get_parameter(EMBEDDINGS), _stored_embeddings(folder).bfloat16())
    assert not (cache / "weights").exists()


def test_a_weight_at_an_odd_offset_is_copied(tmp_path: Path, cache: Path) -> None:
    """Older writers did not pad the header."""
    folder = save_tiny("llama", tmp_path / "base")
    data = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip() + b" "
    while (8 + len(header)) % 4 != 1:
        header += b" "
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    found = load_base(folder).model
    for name, weight in AutoModelForCausalLM.from_pretrained(folder).named_parameters():
        assert torch.equal(found.get_parameter(name), weight)
        assert found.get_parameter(name).data_ptr() % 4 == 0


@pytest.mark.parametrize("writer", ["merge", "lora", "device", "dtype", "freeze"])
def test_no_writer_touches_a_map(writer: str, tiny_folder: Path, tmp_path: Path) -> None:
    """In a process of its own: a write would kill it."""
    environment = os.environ | {"ZFLEET_CACHE": str(tmp_path)}
    command = [sys.executable, __file__, writer, str(tiny_folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{fingerprint(tiny_folder)}\n", "the file has changed"


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("a norm less", r"no weight of model\.layers\.1\.input_layernorm"),
        ("other shape", r"embed_tokens\.weight in .* is \[\d+, 63\]"),
        ("quantized", r"lm_head\.weight in .* is quantized"),
        ("longer", "truncated or damaged"),
    ],
)
def test_a_weight_that_is_no_target_is_checked_too(harm: str, told: str, tiny_folder: Path, tmp_path: Path) -> None:
    """transformers would draw it at random."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "bad"))
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    if harm == "a norm less":
        del tensors["model.layers.1.input_layernorm.weight"]
    elif harm == "other shape":
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:, 1:].contiguous()
    elif harm == "quantized":
        tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float8_e4m3fn)
    safetensors.torch.save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    if harm == "longer":
        with (folder / WEIGHTS).open("ab") as file:
            file.write(b"more")
    with pytest.raises(BaseModelError, match=told) as refused:
        load_base(folder)
    assert refused.value.remedy


# Fingerprints


def _fingerprint_of_whole_files(folder: Path) -> str:
    """As it was computed when each tensor was loaded."""
    volatile = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
    config = {key: value for key, value in read_config(folder).items() if key not in volatile}
    state = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    owner: dict[str, Path] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as tensors:
            owner |= dict.fromkeys(tensors.keys(), file)
    for name in sorted(owner):
        with safe_open(owner[name], "pt") as tensors:
            tensor = tensors.get_tensor(name)
        state.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        state.update(tensor_bytes(tensor))
    return state.hexdigest()


def _of_every_type(folder: Path) -> Path:
    save_tiny("llama", folder)
    types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.complex64]
    types += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8]
    types += [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu]
    tensors = {str(dtype): torch.arange(12).reshape(3, 4).to(torch.float32).to(dtype) for dtype in types}
    more = {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 3)}
    safetensors.torch.save_file(tensors | more, folder / "more.safetensors")
    return folder


def _sharded(folder: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(save_tiny("llama", folder / "whole"), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="50KB")
    return folder


@pytest.mark.parametrize("make", [lambda folder: _save("llava", folder), _of_every_type, _sharded])
@pytest.mark.parametrize("piece", [7, 2**20])
def test_a_fingerprint_in_pieces_is_that_of_whole_tensors(
    make: Callable[[Path], Path], piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zfleet.remembered.PIECE", piece)
    folder = make(tmp_path)
    assert fingerprint(folder) == _fingerprint_of_whole_files(folder)


def _stored_embeddings(folder: Path) -> Tensor:
    return safetensors.torch.load_file(folder / WEIGHTS)[EMBEDDINGS]


def _write(writer: str, folder: Path) -> None:
    """Do with a mapped base what changes a model."""
    from zfleet.config.learner import LearnerSpec
    from zfleet.config.specs import BaseSpec
    from zfleet.models.bundle import pack_base
    from zfleet.rl.lora import LoraWeights
    from zfleet.svf.linear import merge_into

    bundle = pack_base(BaseSpec(model=str(folder)))
    base, ids = bundle.open_base(), torch.tensor([[5, 7, 9]])
    before = {name: weight.clone() for name, weight in base.model.named_parameters()}
    if writer == "merge":
        factors = bundle.factor_folder().load()
        z = {name: torch.full_like(matrix.s, 2.0) for name, matrix in factors.matrices.items()}
        merge_into(base.model, dict(factors.matrices), z)
        assert all(
            torch.allclose(base.model.get_parameter(f"{name}.weight"), 2 * before[f"{name}.weight"], atol=1e-4)
            for name in z
        )
    elif writer == "lora":
        weights = LoraWeights(base, "all", 4, 8)
        p = weights.start(LearnerSpec())
        loss = base.model(input_ids=ids, labels=ids).loss
        (gradient,) = weights.backward(loss, [p])
        p -= 0.1 * gradient
        assert float(base.model(input_ids=ids, labels=ids).loss) < float(loss)
    elif writer == "device":
        nn.Module.to(base.model, "meta")
    elif writer == "dtype":
        nn.Module.to(base.model, torch.bfloat16)
        base.model(input_ids=ids)
    else:
        base.model.requires_grad_(False).train().zero_grad()
    print(fingerprint(folder))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _write(sys.argv[1], Path(sys.argv[2]))
