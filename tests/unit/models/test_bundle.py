"""A base and its factors travel as bytes and open as what they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zfleet.config.specs import BaseSpec
from zfleet.errors import BaseModelError, FactorsError
from zfleet.models.bundle import BaseBundle, open_tokenizer, pack_base
from zfleet.models.svf_model import SvfModel
from zfleet.svf.zvector import ZVector


@pytest.fixture
def bundle(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseBundle:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path))
    return pack_base(BaseSpec(model=str(tiny_folder)))


def test_it_opens_as_what_was_packed(
    bundle: BaseBundle, tiny_model: SvfModel, make_z: Callable[..., ZVector], tmp_path: Path
) -> None:
    computed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = pack_base(bundle.spec)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == computed
    model = again.open()
    assert model.base.slug == bundle.slug == tiny_model.base.slug
    assert model.factors.digest == bundle.open().factors.digest
    ids = torch.tensor([[1, 7, 9]])
    with torch.no_grad():
        assert torch.equal(model.logits(ids, None), tiny_model.logits(ids, None))
    text = "flip abc"
    assert open_tokenizer(bundle.text)(text)["input_ids"] == tiny_model.base.tokenizer(text)["input_ids"]


def test_what_arrives_changed_is_refused(bundle: BaseBundle) -> None:
    with pytest.raises(BaseModelError, match="packed was"):
        replace(bundle, fingerprint="0" * 64).open()
    file = next(name for name in bundle.factors if name.endswith(".safetensors"))
    damaged = bytearray(bundle.factors[file])
    damaged[-1] ^= 1
    with pytest.raises(FactorsError):
        replace(bundle, factors={**bundle.factors, file: bytes(damaged)}).open()


def test_a_folder_without_weights_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    with pytest.raises(BaseModelError, match="no weights"):
        pack_base(BaseSpec(model=str(tmp_path)))


def test_damaged_factors_are_named_where_they_lie(bundle: BaseBundle, tmp_path: Path) -> None:
    (file, *_) = sorted(tmp_path.rglob("model.*.safetensors"))
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(FactorsError, match=str(file)):
        pack_base(bundle.spec)


def test_a_device_that_is_not_there_is_refused(bundle: BaseBundle) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(BaseModelError, match="device 'cuda'"):
        replace(bundle, spec=BaseSpec(model=bundle.spec.model, device="cuda")).open()
