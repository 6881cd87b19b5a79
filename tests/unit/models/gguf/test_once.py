"""A GGUF file is converted once, whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from zfleet.errors import BaseModelError
from zfleet.locks import alone
from zfleet.models.base import find_base
from zfleet.models.fingerprint import fingerprint
from zfleet.models.gguf import convert as converting
from zfleet.models.gguf import weights
from zfleet.models.gguf.convert import convert, open_converted
from zfleet.models.gguf.folders import bases_root, converted_folder, read_origin
from zfleet.models.gguf.read import GgufFile

Refusal = Callable[[Path], BaseModelError]


def test_no_room_is_said_before_anything_is_written(
    refusal: Refusal, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(file)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    error = refusal(file)
    assert "0.00 GiB are free" in error.message
    assert "ZFLEET_CACHE" in error.remedy


def test_a_disk_that_fills_leaves_nothing(refusal: Refusal, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converting, "write_weights", fail)
    assert "No space left on device" in refusal(file).message


def test_a_conversion_that_is_killed_is_done_again(file: Path) -> None:
    killed = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from zfleet.models.gguf import convert, weights\n"
        "write = weights.write_weights\n"
        "def die(planned, folder, advance):\n"
        "    write(planned, folder, advance)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "convert.write_weights = die\n"
        "convert.convert(Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", killed, str(file)], check=False, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    (half,) = (one for one in bases_root().iterdir() if one.is_dir())
    assert half.name.startswith(".gguf-")
    assert list(half.glob("*.safetensors"))
    folder = find_base(str(file))
    assert not half.exists()
    assert fingerprint(folder) == read_origin(folder).fingerprint


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders that are written."""
    done: list[str] = []
    write = weights.write_weights

    def note(planned: list[weights.PlannedWeight], folder: Path, advance: Callable[[int], object]) -> None:
        done.append(folder.name)
        write(planned, folder, advance)

    monkeypatch.setattr(converting, "write_weights", note)
    return done


def test_a_file_is_converted_once(file: Path, tmp_path: Path, conversions: list[str]) -> None:
    copy = Path(shutil.copy(file, tmp_path / "copy.GGUF"))
    assert open_converted(file) == open_converted(file) == open_converted(copy) == find_base(str(copy))
    assert len(conversions) == 1
    # Other bytes under the same name are another base.
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    assert open_converted(copy) != open_converted(file)
    assert len(conversions) == 2


def test_a_second_process_waits_for_the_first(
    file: Path, conversions: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    origin = read_origin(convert(file))
    folder = converted_folder(origin.sha256)
    first = folder.rename(folder.with_name("first"))
    second = threading.Thread(target=convert, args=(file,))
    with caplog.at_level(logging.WARNING), alone(folder.parent / f".{folder.name}.lock", "tests"):
        second.start()
        while "waiting for it" not in caplog.text:
            second.join(0.01)
        first.rename(folder)
    second.join()
    assert len(conversions) == 1


def test_a_file_that_was_converted_is_not_read_again(
    file: Path, tmp_path: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files this small are read again, and so are those that were written a moment ago.
    monkeypatch.setattr("zfleet.remembered.SMALL", 0)
    monkeypatch.setattr("zfleet.remembered._SETTLED_NS", 0)
    folder = open_converted(file)
    opened: list[Path] = []

    def note(path: Path) -> GgufFile:
        opened.append(path)
        return GgufFile(path)

    monkeypatch.setattr(converting, "GgufFile", note)
    assert open_converted(file) == folder
    assert not opened
    # An emptied cache is filled again.
    shutil.rmtree(folder)
    assert open_converted(file) == folder
    assert (opened, len(conversions)) == ([file], 2)
