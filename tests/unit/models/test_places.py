"""Where a node finds a base: in the same place, in its cache, on the hub, or nowhere but with the node that has it."""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from zfleet.config.specs import BaseSpec
from zfleet.errors import BaseModelError
from zfleet.models.bundle import BaseBundle, pack_base
from zfleet.models.places import find_here, find_texts
from zfleet.models.reference import BaseReference, FolderReference, StoredFile

WEIGHTS = "model.safetensors"


class Messenger:
    """Copies files of another node, which keeps its folders elsewhere.

    Attributes:
        brought: The files, by folder.
    """

    def __init__(self, elsewhere: dict[str, Path]) -> None:
        self._elsewhere = elsewhere
        self.brought: list[tuple[str, list[str]]] = []

    def __call__(self, folder: FolderReference, files: Sequence[StoredFile], into: Path) -> None:
        self.brought.append((folder.what, [file.name for file in files]))
        for file in files:
            shutil.copy(self._elsewhere[folder.path] / file.name, into)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the node that looks for the base."""
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "here"))
    return tmp_path / "here"


@pytest.fixture
def bundle(tiny_folder: Path, tmp_path: Path) -> BaseBundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZFLEET_CACHE", str(tmp_path / "there"))
        return pack_base(BaseSpec(model=str(shutil.copytree(tiny_folder, tmp_path / "tiny"))))


@pytest.fixture
def bring(bundle: BaseBundle, tmp_path: Path) -> Messenger:
    return Messenger({str(bundle.model): tmp_path / "away-model", str(bundle.factors): tmp_path / "away-factors"})


def _hide(bundle: BaseBundle, tmp_path: Path) -> BaseReference:
    """Move the base away, where only the messenger finds it."""
    reference = bundle.reference()
    bundle.model.rename(tmp_path / "away-model")
    bundle.factors.rename(tmp_path / "away-factors")
    return reference


def _other(folder: Path) -> None:
    """Put other weights into a base's folder."""
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    tensors["model.norm.weight"] += 1
    safetensors.torch.save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def _refuses(*_: object) -> None:
    raise AssertionError("nothing need be brought")


def test_the_same_path_is_taken_if_it_holds_the_same_base(bundle: BaseBundle, cache: Path) -> None:
    assert find_here(bundle.reference(), _refuses) == bundle
    assert find_here(bundle.reference(), None) == bundle
    assert find_texts(bundle.reference(), _refuses) == bundle.model
    assert not (cache / "fetched").exists()


def test_weights_cut_otherwise_are_the_same_base(bundle: BaseBundle, cache: Path) -> None:
    reference = bundle.reference()
    tensors = safetensors.torch.load_file(bundle.model / WEIGHTS)
    (bundle.model / WEIGHTS).unlink()
    safetensors.torch.save_file(tensors, bundle.model / "model-1.safetensors", {"format": "pt"})
    index = {"weight_map": dict.fromkeys(tensors, "model-1.safetensors")}
    (bundle.model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert find_here(reference, _refuses) == bundle
    bundle.open()


def test_what_is_not_there_is_brought_once(
    bundle: BaseBundle, cache: Path, tmp_path: Path, bring: Messenger, make_logits: torch.Tensor
) -> None:
    reference = _hide(bundle, tmp_path)
    found = find_here(reference, bring)
    assert [what for what, _ in bring.brought] == ["base tiny", "factors of base tiny"]
    assert found.model.is_relative_to(cache)
    assert found.factors.is_relative_to(cache)
    assert (found.fingerprint, found.factors_digest) == (bundle.fingerprint, bundle.factors_digest)
    assert torch.equal(found.open().logits(torch.tensor([[1, 7, 9]]), None), make_logits)
    assert find_here(reference, _refuses) == found
    assert find_texts(reference, _refuses) == found.model


@pytest.fixture
def make_logits(bundle: BaseBundle) -> torch.Tensor:
    return bundle.open().logits(torch.tensor([[1, 7, 9]]), None)


def test_a_tokenizer_needs_no_weights_and_what_came_with_it_is_not_brought_again(
    bundle: BaseBundle, cache: Path, tmp_path: Path, bring: Messenger
) -> None:
    reference = _hide(bundle, tmp_path)
    texts = find_texts(reference, bring)
    assert not list(texts.glob("*.safetensors"))
    find_here(reference, bring)
    assert bring.brought[1] == ("base tiny", [WEIGHTS])


def test_other_weights_in_the_same_path_are_named_and_not_taken(
    bundle: BaseBundle, cache: Path, tmp_path: Path, bring: Messenger, caplog: pytest.LogCaptureFixture
) -> None:
    reference = bundle.reference()
    shutil.copytree(bundle.model, tmp_path / "away-model")
    _other(bundle.model)
    other = pack_base(BaseSpec(model=str(bundle.model))).fingerprint
    found = find_here(reference, bring)
    assert found.model.is_relative_to(cache)
    assert re.search(
        rf"{bundle.model} on .* holds base {other[:12]}, the job's is {bundle.fingerprint[:12]}", caplog.text
    )
    assert str(found.model) in caplog.text
    shutil.rmtree(cache / "fetched")
    with pytest.raises(BaseModelError, match=rf"{other[:12]}, the job's is {bundle.fingerprint[:12]}"):
        find_here(reference, None)


@pytest.mark.parametrize("harm", ["tokenizer", "damaged"])
def test_a_folder_that_cannot_be_used_is_not_taken(
    harm: str, bundle: BaseBundle, cache: Path, tmp_path: Path, bring: Messenger, caplog: pytest.LogCaptureFixture
) -> None:
    reference = bundle.reference()
    shutil.copytree(bundle.model, tmp_path / "away-model")
    if harm == "tokenizer":
        path = bundle.model / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "other"}))
    else:
        (bundle.model / WEIGHTS).write_bytes(b"no tensors")
    assert find_here(reference, bring).model.is_relative_to(cache)
    assert {"tokenizer": "tokenizer_config.json in", "damaged": "holds no base that can be read"}[harm] in caplog.text


def test_factors_of_this_node_are_taken_only_if_they_are_the_same(
    bundle: BaseBundle, cache: Path, tmp_path: Path, bring: Messenger
) -> None:
    """A z means something only on the factors that it was trained on."""
    reference = bundle.reference()
    bundle.factors.rename(tmp_path / "away-factors")
    own = pack_base(bundle.spec)
    assert own.factors.is_relative_to(cache)
    assert find_here(reference, _refuses).factors == own.factors
    manifest = own.factors / "factors.json"
    manifest.unlink()
    file = next(own.factors.glob("*.q_proj.safetensors"))
    tensors = safetensors.torch.load_file(file)
    # As another library might give them: both vectors of a direction turned.
    turned = {"u": -tensors["u"], "s": tensors["s"], "vh": -tensors["vh"]}
    from zfleet.svf.factors import MatrixFactors
    from zfleet.svf.matrix_file import write_matrix

    write_matrix(own.factors, file.stem, MatrixFactors(**turned), 0.0)
    assert pack_base(bundle.spec).factors_digest != bundle.factors_digest
    found = find_here(reference, bring)
    assert bring.brought[-1][0] == "factors of base tiny"
    assert found.open().factors.digest == bundle.factors_digest


def test_of_two_at_once_one_brings_it_and_the_other_sees_how_far(
    bundle: BaseBundle,
    cache: Path,
    tmp_path: Path,
    bring: Messenger,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zfleet.locks._FIRST_LOOK_SECONDS", 0.05)
    reference = _hide(bundle, tmp_path)
    caplog.set_level(logging.WARNING)

    def slowly(folder: FolderReference, files: Sequence[StoredFile], into: Path) -> None:
        if not other.is_alive() and not found:
            other.start()
            while "are here" not in caplog.text:
                time.sleep(0.01)
        bring(folder, files, into)

    found: list[BaseBundle] = []
    other = threading.Thread(target=lambda: found.append(find_here(reference, bring)))
    first = find_here(reference, slowly)
    other.join()
    assert found == [first]
    assert len(bring.brought) == 2
    assert "another process fetches base tiny to" in caplog.text
    assert "0.00 of 0.00 GiB are here" in caplog.text


def test_what_does_not_arrive_is_an_error_with_all_that_was_seen(
    bundle: BaseBundle, cache: Path, tmp_path: Path
) -> None:
    reference = bundle.reference()
    _other(bundle.model)

    def fails(*_: object) -> None:
        raise BaseModelError("the other node is gone", "start it")

    with pytest.raises(BaseModelError, match=r"holds base .*; the other node is gone") as refused:
        find_here(reference, fails)
    assert refused.value.remedy == "start it"


@pytest.mark.parametrize("there", ["whole", "other", "not at all"])
def test_a_base_of_the_hub_is_taken_from_there_at_the_same_commit(
    there: str,
    bundle: BaseBundle,
    cache: Path,
    tmp_path: Path,
    bring: Messenger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of the hub's client only the function that downloads is replaced: the hub itself is out of reach."""
    asked: list[tuple[str, str, bool]] = []
    snapshot = tmp_path / "hub" / "models--me--tiny" / "snapshots" / "c0ffee"
    shutil.copytree(bundle.model, snapshot)

    def download(model: str, *, revision: str, ignore_patterns: list[str], local_files_only: bool) -> str:
        asked.append((model, revision, local_files_only))
        if there == "not at all" or local_files_only:
            raise OSError("no network")
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    spec = bundle.spec.model_copy(update={"model": "me/tiny"})
    from_hub = replace(bundle, spec=spec, model=snapshot).reference()
    assert from_hub.revision == "c0ffee"
    reference = replace(_hide(replace(bundle, spec=spec), tmp_path), revision="c0ffee")
    if there == "other":
        _other(snapshot)
    found = find_here(reference, bring)
    assert asked == [("me/tiny", "c0ffee", True), ("me/tiny", "c0ffee", False)]
    assert (found.model == snapshot) == (there == "whole")
    brought = [what for what, _ in bring.brought]
    assert brought == ["factors of base tiny"] if there == "whole" else ["base tiny", "factors of base tiny"]
    assert ("no network" in caplog.text) == (there == "not at all")
