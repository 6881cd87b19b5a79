"""Files that arrive in pieces: whatever an earlier copy left, they are the source's, or they are not there."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zfleet.errors import BaseModelError
from zfleet.models.reference import StoredFile
from zfleet_cluster.bases.copying import copy_files


class Killed(Exception):
    """Stands for a kill between two pieces."""


class Memory:
    """Files in memory.

    Attributes:
        files: By name.
        piece: Size of the pieces.
        left: How many pieces are read before a kill; None: no kill.
        sent: Bytes that were read.
    """

    def __init__(self, files: dict[str, bytes], piece: int = 1000, left: int | None = None) -> None:
        self.files = files
        self.piece = piece
        self.left = left
        self.sent = 0

    def pieces(self, name: str, start: int, end: int) -> Iterator[memoryview]:
        for place in range(start, end, self.piece):
            if self.left is not None:
                if not self.left:
                    raise Killed
                self.left -= 1
            piece = self.files[name][place : min(place + self.piece, end)]
            self.sent += len(piece)
            yield memoryview(piece)

    def prefix_sha256(self, name: str, size: int) -> str:
        return sha256(self.files[name][:size]).hexdigest()

    @property
    def described(self) -> list[StoredFile]:
        return [StoredFile(name, len(data), sha256(data).hexdigest()) for name, data in self.files.items()]


def _nothing(size: int) -> None:
    pass


def _there(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(deadline=None)
@given(
    data=st.binary(max_size=300),
    piece=st.integers(1, 64),
    kills=st.lists(st.integers(0, 4), max_size=6),
    left=st.one_of(st.none(), st.binary(max_size=350)),
)
def test_a_copy_that_is_killed_again_and_again_ends_as_the_source(
    data: bytes, piece: int, kills: list[int], left: bytes | None
) -> None:
    """Whatever a file of that name holds at the beginning."""
    with tempfile.TemporaryDirectory() as name:
        into = Path(name)
        (file,) = Memory({"w": data}).described
        if left is not None:
            (into / file.partial).write_bytes(left)
        for kill in kills:
            try:
                copy_files(Memory({"w": data}, piece, kill), [file], into, _nothing)
            except Killed:
                assert not (into / "w").exists(), "what is not complete has the name of what is"
            else:
                break
        else:
            copy_files(Memory({"w": data}, piece), [file], into, _nothing)
        assert _there(into) == {"w": data}


@settings(deadline=None)
@given(data=st.binary(min_size=1, max_size=200), piece=st.integers(1, 64), kill=st.integers(0, 5))
def test_nothing_that_arrived_is_sent_again(data: bytes, piece: int, kill: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        first, second = Memory({"w": data}, piece, kill), Memory({"w": data}, piece)
        try:
            copy_files(first, first.described, Path(name), _nothing)
        except Killed:
            copy_files(second, second.described, Path(name), _nothing)
        assert first.sent + second.sent == len(data)


def test_every_byte_is_reported(tmp_path: Path) -> None:
    source, seen = Memory({"a": b"x" * 2500, "b": b"", "c": b"y"}), list[int]()
    copy_files(source, source.described, tmp_path, seen.append)
    assert seen == [1000, 1000, 500, 1]
    assert _there(tmp_path) == source.files


def test_a_beginning_that_is_another_file_is_not_kept(tmp_path: Path) -> None:
    source = Memory({"w": bytes(range(200))}, 50)
    (file,) = source.described
    (tmp_path / file.partial).write_bytes(bytes(100))
    copy_files(source, [file], tmp_path, _nothing)
    assert _there(tmp_path) == source.files
    assert source.sent == 200


def test_a_file_with_another_digest_is_refused_and_forgotten(tmp_path: Path) -> None:
    (file,) = Memory({"w": b"as it was"}).described
    with pytest.raises(BaseModelError, match=r"w arrived on .* with 9 bytes of sha256") as refused:
        copy_files(Memory({"w": b"as it is!"}), [file], tmp_path, _nothing)
    assert "changed after the job started" in refused.value.remedy
    assert _there(tmp_path) == {}
    with pytest.raises(BaseModelError, match=r"arrived on .* with 5 bytes"):
        copy_files(Memory({"w": b"short"}), [file], tmp_path, _nothing)
    assert _there(tmp_path) == {}


def test_a_folder_without_room_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    source = Memory({"w": b"data"})
    large = StoredFile("w", 10**15, "0" * 64)
    with pytest.raises(BaseModelError, match=rf"{tmp_path} on .* has room for \d+ bytes, {10**15} are needed"):
        copy_files(source, [large], tmp_path, _nothing)
    assert source.sent == 0


def test_a_disk_that_fills_up_keeps_what_arrived_under_another_name(tmp_path: Path) -> None:
    source = Memory({"small": b"s" * 100, "w": b"w" * 50_000})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(
            BaseModelError,
            match=rf"w cannot be written to {tmp_path} on .*: .*of 50000 bytes are missing, \d+ are free",
        ) as refused:
            copy_files(source, source.described, tmp_path, _nothing)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "goes on where it stopped" in refused.value.remedy
    assert {path.name for path in tmp_path.iterdir()} == {"small", ".w.part"}
    more = Memory(source.files)
    copy_files(more, more.described[1:], tmp_path, _nothing)
    assert _there(tmp_path) == source.files
    assert more.sent < 40_000
