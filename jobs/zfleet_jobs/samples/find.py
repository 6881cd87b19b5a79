"""From what a user names (a run, one of its trainings, or a folder) to files of samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from zfleet.errors import SamplesError, SpecError
from zfleet_jobs.samples.layout import FOLDER, SampleFile, is_sample_file, sample_file

_PARTITION = re.compile(r"(?:(.*)/)?(run=[^/]+(?:/.*)?)")


@dataclass(frozen=True)
class RunFiles:
    """Files of samples of one run.

    Attributes:
        run: The run's name.
        system: The file system that has them.
        files: Finished ones, in order of training, step and name. At least one.
    """

    run: str
    system: fs.FileSystem
    files: Sequence[SampleFile]


def find_files(run: str, storage: str, expert: str | None = None) -> RunFiles:
    """Find the files of a run that are there now.

    Args:
        run: A run's name (``lab-experts``), or a folder or URI: anything with a slash in it. It is then the run's own
            folder, or one in ``samples``.
        storage: Of runs, a path or a URI; not used if ``run`` is a folder.
        expert: Only this expert's.

    Raises:
        SpecError: No such run or expert; those that are there are named.
        SamplesError: The run has no samples yet, or the storage cannot be read.
    """
    try:
        system, root, keys = _resolve(run, storage)
        selector = fs.FileSelector(f"{root}/run={keys['run']}", recursive=True, allow_not_found=True)
        infos = system.get_file_info(selector)
    except OSError as error:
        raise SamplesError(
            f"the samples of {run!r} cannot be listed: {error}", "see that their storage answers"
        ) from error
    there = (sample_file(root, info.path) for info in infos if is_sample_file(info))
    files = sorted(file for file in there if file is not None and _matches(file, root, keys))
    if not files:
        raise SamplesError(
            f"run {keys['run']!r} has no samples in {root}",
            "they appear when its first step is over; `--storage` says where the run keeps them",
        )
    return RunFiles(keys["run"], system, _of_expert(files, expert))


def _resolve(run: str, storage: str) -> tuple[fs.FileSystem, str, Mapping[str, str]]:
    """Resolve ``run`` to a file system, its folder of samples, and the values of partitions."""
    partition = _PARTITION.fullmatch(run)
    if partition:
        return *_open(partition[1] or "."), _keys(partition[2])
    name = run
    if "/" in run:
        run = run.rstrip("/")
        system, within = _open(f"{run}/{FOLDER}")
        if runs := _runs(system, within):
            raise SpecError(
                f"{run!r} is a storage, no run", f"name one of its runs: {', '.join(runs)}; --storage {run}"
            )
        # The run's own folder, with checkpoints in it.
        storage, _, name = run.rpartition("/")
    system, root = _open(f"{storage}/{FOLDER}")
    return system, root, _named(system, root, name)


def _open(folder: str) -> tuple[fs.FileSystem, str]:
    try:
        system, root = fs.FileSystem.from_uri(folder if "://" in folder else str(Path(folder).resolve()))
    except pa.ArrowInvalid as error:
        raise SpecError(
            f"{folder!r} is no folder that can be read: {error}", "name a path, or a URI as s3://"
        ) from error
    return system, root.rstrip("/")


def _keys(path: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in path.split("/") if "=" in part)


def _matches(file: SampleFile, root: str, keys: Mapping[str, str]) -> bool:
    own = _keys(file.path.removeprefix(f"{root}/"))
    return all(own[key] == value for key, value in keys.items() if key in own)


def _named(system: fs.FileSystem, root: str, name: str) -> dict[str, str]:
    """Resolve a name."""
    runs = _runs(system, root)
    if name in runs:
        return {"run": name}
    storage = root.removesuffix(f"/{FOLDER}")
    if name in _folders(system, storage):
        raise SamplesError(f"run {name!r} in {storage} has no samples yet", "they appear when its first step is over")
    if not runs:
        raise SpecError(f"no run {name!r}: no run in {storage} has samples", "name the storage of its spec: --storage")
    raise SpecError(
        f"no run {name!r} in {storage}", f"name one that is there: {_nearest(name, runs)}; or its storage: --storage"
    )


def _runs(system: fs.FileSystem, root: str) -> list[str]:
    return [folder.removeprefix("run=") for folder in _folders(system, root) if folder.startswith("run=")]


def _folders(system: fs.FileSystem, root: str) -> list[str]:
    infos = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
    return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)


def _of_expert(files: Sequence[SampleFile], expert: str | None) -> list[SampleFile]:
    experts = {file.training.expert for file in files}
    if expert is None or expert in experts:
        return [file for file in files if expert in (None, file.training.expert)]
    raise SpecError(f"--expert {expert!r} has no samples in this run", f"choose one of: {_nearest(expert, experts)}")


def _nearest(name: str, others: Iterable[str]) -> str:
    names = sorted(others)
    return ", ".join(get_close_matches(name, names, len(names), 0.0))
