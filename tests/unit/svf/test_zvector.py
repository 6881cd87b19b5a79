"""A z on disk: its identity, and what is refused."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from zfleet.errors import InvalidZ, WrongBase, ZVectorError
from zfleet.models.svf_model import SvfModel
from zfleet.svf.layout import ZLayout
from zfleet.svf.zvector import FORMAT, ZVector

FIXED: Mapping[str, list[float]] = {
    "model.layers.1.mlp.up_proj": [1.0, 0.5, -2.25],
    "model.layers.0.mlp.up_proj": [0.0, 1e-30],
}
LAYOUT = ZLayout(tuple(FIXED), tuple(len(values) for values in FIXED.values()))


def _fixed() -> ZVector:
    return ZVector({name: torch.tensor(values) for name, values in FIXED.items()}, "base", "factors", "mlp")


def _golden() -> str:
    """The documented canonical bytes, put together by hand."""
    state = hashlib.sha256(b"zfleet-z/1\0factors\0")
    for name in sorted(FIXED):
        values = FIXED[name]
        state.update(f"{name}\0torch.float32\0[{len(values)}]\0".encode() + struct.pack(f"<{len(values)}f", *values))
    return state.hexdigest()


def test_digest_is_that_of_the_canonical_bytes() -> None:
    assert _fixed().digest == _golden()


def test_digest_survives_a_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "z.safetensors"
    _fixed().save(path, {"note": "kept"})
    loaded = ZVector.load(path)
    assert loaded.digest == _golden()
    assert (loaded.base, loaded.factors, loaded.targets) == ("base", "factors", "mlp")
    assert [entry.name for entry in path.parent.iterdir()] == ["z.safetensors"]


def test_digest_is_the_same_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "z.safetensors"
    _fixed().save(path)
    code = (
        "import sys; from pathlib import Path; from zfleet.svf.zvector import ZVector; "
        "print(ZVector.load(Path(sys.argv[1])).digest)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == _golden()


def test_digest_knows_values_names_order_and_factors() -> None:
    z = _fixed()
    turned = ZVector(dict(reversed(list(z.values.items()))), z.base, z.factors, z.targets)
    assert turned.digest == z.digest, "the order of the dictionary is no part of a z"
    changed = {name: value.clone() for name, value in z.values.items()}
    changed["model.layers.0.mlp.up_proj"][1] = 2e-30
    swapped = dict(zip(FIXED, (z.values[name] for name in reversed(list(FIXED))), strict=True))
    others = [ZVector(changed, z.base, z.factors, z.targets), ZVector(swapped, z.base, z.factors, z.targets)]
    others.append(replace(z, factors="others"))
    assert len({z.digest, *(other.digest for other in others)}) == 4


def test_flat_and_split_are_inverse() -> None:
    z = _fixed()
    assert z.size == LAYOUT.size == 5
    back = LAYOUT.split(z.flat(LAYOUT))
    assert all(torch.equal(back[name], z.values[name]) for name in FIXED)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"w": torch.tensor([1.0, float("nan")])}, "w holds 1 values"),
        ({"w": torch.tensor([float("inf"), -float("inf")])}, "w holds 2 values"),
        ({"w": torch.ones(2, dtype=torch.float64)}, "float64"),
        ({"w": torch.ones(2, dtype=torch.float16)}, "float16"),
        ({"w": torch.ones(2, 1)}, r"\[2, 1\]"),
        ({"w": torch.ones(())}, r"\[\]"),
        ({}, "no matrices"),
    ],
)
def test_values_that_are_no_z_are_refused(values: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InvalidZ, match=message) as refused:
        ZVector(values, "base", "factors", "mlp")
    assert refused.value.remedy


def test_values_that_turned_nan_later_are_refused() -> None:
    z = _fixed()
    z.values["model.layers.0.mlp.up_proj"][0] = float("nan")
    with pytest.raises(InvalidZ, match=r"layers\.0"):
        z.check_fits(base="base", factors="factors", layout=LAYOUT)


def test_a_z_of_other_matrices_is_refused() -> None:
    names, ranks = tuple(FIXED), (3, 2)
    for layout, named in [
        (ZLayout(names[:1], ranks[:1]), names[1]),
        (ZLayout((*names, "more"), (*ranks, 4)), "more"),
        (ZLayout(names, (3, 4)), names[1]),
    ]:
        with pytest.raises(InvalidZ, match=named.replace(".", r"\.")):
            _fixed().check_fits(base="base", factors="factors", layout=layout)
        with pytest.raises(InvalidZ):
            _fixed().flat(layout)


def test_a_z_of_another_base_or_of_other_factors_is_refused(
    tiny_model: SvfModel, make_z: Callable[..., ZVector]
) -> None:
    z = make_z(0)
    tiny_model.check(z)
    with pytest.raises(WrongBase, match="base"):
        tiny_model.check(replace(z, base="0" * 64))
    with pytest.raises(WrongBase, match="factors"):
        tiny_model.check(replace(z, factors="0" * 64))


def test_a_truncated_file_is_refused(tmp_path: Path, make_z: Callable[..., ZVector]) -> None:
    data = make_z(0).to_bytes()
    path = tmp_path / "z.safetensors"
    for length in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(InvalidZ, match=r"z\.safetensors"):
            ZVector.load(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(InvalidZ):
        ZVector.load(path)


@pytest.mark.parametrize("mask", [0x01, 0x10, 0x80, 0xFF])
def test_no_flipped_byte_goes_unnoticed(mask: int) -> None:
    """A file that loads all the same (a flip in text that is no part of the z) holds the same values."""
    data = _fixed().to_bytes()
    refused = 0
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= mask
        try:
            loaded = ZVector.from_bytes(bytes(flipped))
        except InvalidZ:
            refused += 1
            continue
        assert loaded.digest == _golden(), f"byte {place}"
        try:
            loaded.check_fits(base="base", factors="factors", layout=LAYOUT)
        except ZVectorError:
            refused += 1
            continue
        assert all(torch.equal(loaded.values[name], torch.tensor(FIXED[name])) for name in FIXED)
    assert refused > len(data) // 2


@pytest.mark.parametrize("key", ["format", "base", "factors", "targets", "digest"])
def test_missing_metadata_is_refused(key: str) -> None:
    z = _fixed()
    metadata = {"format": FORMAT, "base": z.base, "factors": z.factors, "targets": z.targets, "digest": z.digest}
    tensors = dict(z.values)
    assert ZVector.from_bytes(safetensors.torch.save(tensors, metadata)).digest == z.digest
    del metadata[key]
    with pytest.raises(InvalidZ, match=key):
        ZVector.from_bytes(safetensors.torch.save(tensors, metadata), "f")


def test_a_file_of_something_else_is_refused() -> None:
    for data in (safetensors.torch.save({"w": torch.ones(2)}), json.dumps({"z": 1}).encode(), b"\xff" * 64):
        with pytest.raises(InvalidZ):
            ZVector.from_bytes(data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidZ, match=r"gone\.safetensors"):
        ZVector.load(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "z.safetensors"
    _fixed().save(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, full)
    with pytest.raises(OSError, match="No space"):
        ZVector({name: value + 1 for name, value in _fixed().values.items()}, "base", "factors", "mlp").save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["z.safetensors"]
    assert ZVector.load(path).digest == _golden()
