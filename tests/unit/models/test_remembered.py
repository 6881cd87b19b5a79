"""What is known of big files holds until one of them changes, however it is changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from zfleet.remembered import SMALL, file_sha256, pieces, remember, remembered

DATA = bytes(range(256)) * (SMALL // 256)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    # A file that was just written counts as unsettled; its times of status change cannot be set back.
    monkeypatch.setattr("zfleet.remembered._SETTLED_NS", 0)
    path = tmp_path / "file"
    path.write_bytes(DATA)
    time.sleep(0.02)
    return path


def _count(path: Path) -> tuple[Callable[[], str], list[str]]:
    seen: list[str] = []

    def compute() -> str:
        seen.append(sha256(path.read_bytes()).hexdigest())
        return seen[-1]

    return compute, seen


def test_a_file_is_read_once(file: Path) -> None:
    compute, seen = _count(file)
    assert {remembered("kind", [file], compute) for _ in range(3)} == set(seen)
    assert len(seen) == 1
    remembered("other kind", [file], compute)
    assert len(seen) == 2
    assert file_sha256(file) == seen[0]


def _same_size_and_time(file: Path) -> None:
    status = file.stat()
    file.write_bytes(b"x" + DATA[1:])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def _another_inode(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"x" + DATA[1:])
    other.replace(file)


@pytest.mark.parametrize(
    "change",
    [
        _same_size_and_time,
        _another_inode,
        lambda file: file.write_bytes(DATA + b"more"),
        lambda file: file.write_bytes(DATA[:-1] + b"x"),
    ],
)
def test_a_changed_file_is_read_again(file: Path, change: Callable[[Path], None]) -> None:
    before = file_sha256(file)
    time.sleep(0.02)
    change(file)
    assert file_sha256(file) == sha256(file.read_bytes()).hexdigest() != before


def test_any_of_several_files_counts(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"small")
    time.sleep(0.02)
    compute, seen = _count(other)
    remembered("kind", [file, other], compute)
    other.write_bytes(b"changed")
    remembered("kind", [file, other], compute)
    assert len(seen) == 2


def test_a_file_that_has_just_changed_or_is_being_changed_is_not_remembered(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zfleet.remembered._SETTLED_NS", 10**12)
    compute, seen = _count(file)
    remembered("kind", [file], compute)
    remembered("kind", [file], compute)
    assert len(seen) == 2
    monkeypatch.setattr("zfleet.remembered._SETTLED_NS", 0)

    def while_it_is_written() -> str:
        file.write_bytes(DATA + b"more")
        return compute()

    remembered("kind", [file], while_it_is_written)
    remembered("kind", [file], compute)
    assert len(seen) == 4


def test_what_was_written_here_need_not_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zfleet.remembered._SETTLED_NS", 10**12)
    remember("sha256", [file], "told")
    assert file_sha256(file) == "told"


@pytest.mark.parametrize("harm", [b"", b"{", b"[]", b'{"files": [], "value": "x"}'])
def test_a_damaged_record_counts_as_none(file: Path, tmp_path: Path, harm: bytes) -> None:
    expected = file_sha256(file)
    (record,) = (tmp_path / "cache" / "remembered").iterdir()
    assert json.loads(record.read_text())["value"] == expected
    record.write_bytes(harm)
    assert file_sha256(file) == expected


def test_a_cache_that_cannot_be_written_only_costs_time(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "no folder"))
    assert file_sha256(file) == sha256(DATA).hexdigest()


def test_small_files_are_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZFLEET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small").write_bytes(b"few")
    assert file_sha256(tmp_path / "small") == sha256(b"few").hexdigest()
    assert not (tmp_path / "cache").exists()


def test_pieces_are_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zfleet.remembered.PIECE", 1000)
    assert b"".join(pieces(file)) == DATA
    assert b"".join(pieces(file, 10, 2500)) == DATA[10:2510]
    assert [len(piece) for piece in pieces(file, 10, 2500)] == [1000, 1000, 500]
    assert b"".join(pieces(file, len(DATA) - 5, 100)) == DATA[-5:]
