"""A base on this node: found with its factors, described for others, and opened as what it is."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zfleet.config.specs import BaseSpec
from zfleet.errors import BaseModelError, FactorsError
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.models.svf_model import SvfModel
from zfleet.remembered import sha256_of
from zfleet.svf.zvector import ZVector


@pytest.fixture
def bundle(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseBundle:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path))
    return pack_base(BaseSpec(model=str(tiny_folder)))


def test_it_opens_as_what_was_found(
    bundle: BaseBundle, tiny_model: SvfModel, make_z: Callable[..., ZVector], tmp_path: Path
) -> None:
    computed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = pack_base(bundle.spec)
    assert again == bundle
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == computed
    model = again.open()
    assert model.base.slug == bundle.slug == tiny_model.base.slug
    assert model.base.context == bundle.context
    assert model.factors.digest == bundle.factors_digest == bundle.open().factors.digest
    ids, z = torch.tensor([[1, 7, 9]]), make_z(3).flat(model.layout).expand(1, -1)
    with torch.no_grad():
        for rows in (None, z):
            assert torch.equal(model.logits(ids, rows), tiny_model.logits(ids, rows))
    text = "flip abc"
    assert bundle.tokenizer()(text)["input_ids"] == tiny_model.base.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_linears_compute_with_is_prepared_once_and_equals_what_is_computed_in_memory(
    bundle: BaseBundle, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = replace(bundle, spec=bundle.spec.model_copy(update={"dtype": dtype}))
    expected = SvfModel(bundle.open_base(), bundle.factor_folder().load())
    monkeypatch.setattr("zfleet.svf.prepared._SMALL", 0)
    model = bundle.open()
    prepared = {path: path.stat() for path in (bundle.factors / f"linear-{dtype}").glob("*.safetensors")}
    assert len(prepared) == len(model.layout.names)
    for name in model.layout.names:
        mapped, computed = (one.base.model.get_submodule(name) for one in (model, expected))
        for part in ("us", "vh"):
            assert torch.equal(getattr(mapped, part), getattr(computed, part))
            assert getattr(mapped, part).data_ptr() % 64 == 0
    bundle.open()
    assert {path: path.stat() for path in prepared} == prepared
    changed = next(iter(prepared))
    changed.write_bytes(changed.read_bytes()[:-1])
    again = bundle.open()
    assert torch.equal(again.logits(torch.tensor([[1]]), None), model.logits(torch.tensor([[1]]), None))
    assert changed.stat().st_size == prepared[changed].st_size


def test_no_room_for_what_is_prepared_is_said_with_its_size(
    bundle: BaseBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    monkeypatch.setattr("zfleet.svf.prepared._SMALL", 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(FactorsError, match=r"linear-float32/.* cannot be written on .* bytes, \d+ are free"):
            bundle.open()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((bundle.factors / "linear-float32").glob(".model*")), "half a file was left"
    bundle.open()


def test_a_reference_is_small_and_names_every_file(bundle: BaseBundle) -> None:
    reference = pickle.loads(pickle.dumps(bundle.reference()))  # noqa: S301  (our own bytes)
    assert reference == bundle.reference()
    for folder, part in ((bundle.model, reference.model), (bundle.factors, reference.factors)):
        assert Path(part.path) == folder
        for file in part.files:
            data = (folder / file.name).read_bytes()
            assert (len(data), sha256_of(iter([data]))) == (file.size, file.sha256)
    names = {file.name for file in reference.model.files}
    assert names == {path.name for path in bundle.model.iterdir()}
    assert reference.factors.files[-1].name == "factors.json", "a folder of factors is complete when it has this"
    assert len(reference.factors.files) == 15
    assert len(pickle.dumps(reference)) < 5000
    assert reference.revision is None


def test_a_record_of_where_a_base_came_from_makes_no_other_base(bundle: BaseBundle, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(bundle.model, twin)
    (twin / "origin.json").write_text('{"file": "another.gguf"}')
    assert replace(bundle, model=twin).reference().model.files == bundle.reference().model.files


def test_a_folder_that_was_changed_is_refused(bundle: BaseBundle) -> None:
    with pytest.raises(BaseModelError, match=f"holds base .* by now, the job's is {'0' * 12}"):
        replace(bundle, fingerprint="0" * 64).open()
    file = next(bundle.factors.glob("*.safetensors"))
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(FactorsError, match=str(file)):
        bundle.open()


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
