"""Find the files of this machine that a job needs, and check its tasks with them before anything is sent."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.search import SearchSpec
from zfleet.config.specs import TrainSpec
from zfleet.config.task_specs import GraderSpec, TaskSpec
from zfleet.errors import SpecError
from zfleet.rewards.build import build_reward
from zfleet.tasks.build import build_task
from zfleet.tasks.files import task_files
from zfleet_cluster.sent_code import PACKAGES
from zfleet_jobs.submit.places import BatchSpec, raise_together

MOST_MIB = 64
"""Ray's dashboard refuses a package of 100 MiB, with an error that does not say so."""

_MIB = 2**20
_NAMED = 3
"""How many of the largest files an error names."""

_NOT_SENT = "what an absolute path names is not sent, the cluster must have it there"


@dataclass(frozen=True)
class JobFiles:
    """The files of a job.

    Attributes:
        sent: {path below the current folder: file}; the job finds each at the same relative path.
        notes: Sentences for the user, about files and modules that the cluster must have itself.
    """

    sent: Mapping[str, Path]
    notes: tuple[str, ...]


def find_files(job: BatchSpec) -> JobFiles:
    """Build the tasks of a job, and find their files: rows, images, and modules of Python rewards.

    Only the rewards are checked of a task whose rows are on the hub, or at an absolute path that this machine lacks.

    Raises:
        TaskError, SpecError: As ``build_task``.
        SpecError: A relative path leads out of the current folder, or the files are too large to be sent.
    """
    folder, tasks = Path.cwd(), _tasks(job)
    sent: dict[str, Path] = {}
    notes: list[str] = []
    refusals: list[SpecError] = []
    for key, task in tasks.items():
        name, source = ("jsonl", task.jsonl) if task.jsonl is not None else ("data", task.data)
        if source is None and task.dataset is not None:
            build_reward(task.reward)
        elif source is None:
            build_task(task)
        elif Path(source).is_absolute():
            notes.append(f"{key}.{name} is {source}: {_NOT_SENT}")
            if Path(source).exists():
                build_task(task)
            else:
                build_reward(task.reward)
        elif source.startswith("~") or ".." in Path(source).parts:
            refusals.append(_outside(f"{key}.{name}", source))
        else:
            below, elsewhere = _split(task_files(task, build_task(task)), folder)
            sent |= below
            if upwards := [path for path in elsewhere if ".." in path.parts]:
                refusals.append(_outside(f"an image of {source}", str(upwards[0])))
            elif elsewhere:
                notes.append(f"{source} has absolute paths of images, such as {elsewhere[0]}: {_NOT_SENT}")
    raise_together(refusals)
    modules, installed = _modules(tasks, folder)
    sent |= modules
    _check_size(sent)
    return JobFiles(dict(sorted(sent.items())), tuple(dict.fromkeys([*notes, *installed])))


def size_of(files: Mapping[str, Path]) -> int:
    """Return how many bytes files have together."""
    return sum(file.stat().st_size for file in files.values())


def _tasks(job: BatchSpec) -> dict[str, TaskSpec]:
    """Return the tasks of a job by their keys in the spec."""
    if isinstance(job, TrainSpec):
        return {f"experts.{place}.task": expert.task for place, expert in enumerate(job.experts)}
    if isinstance(job, SearchSpec):
        return {"task": job.task}
    if isinstance(job, CalibrateSpec):
        return {f"labels.{label}.task": spec.task for label, spec in job.labels.items()}
    return {f"tasks.{name}": task for name, task in job.tasks.items()}


def _split(paths: Iterable[Path], folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """Return the files below a folder by their relative paths, and the others."""
    below: dict[str, Path] = {}
    elsewhere: list[Path] = []
    for path in sorted(paths):
        file = Path(os.path.normpath(path))
        if file.is_relative_to(folder):
            below[file.relative_to(folder).as_posix()] = file
        else:
            elsewhere.append(path)
    return below, elsewhere


def _modules(tasks: Mapping[str, TaskSpec], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the modules of Python rewards that were imported from the current folder, and those they import in turn.

    Returns:
        {path below the folder: file}, and a sentence for each reward that is installed on this machine.
    """
    names = {key: value.partition(":")[0] for key, value in _python_rewards(tasks)}
    if not names:
        return {}, []
    found = {name: file for name, module in sys.modules.items() if (file := _file_below(folder, name, module))}
    notes = [
        f"{key} is in {name}, a module installed on this machine: the cluster must have it installed, too"
        for key, name in names.items()
        if name not in found and name.partition(".")[0] not in PACKAGES
    ]
    return {file.relative_to(folder).as_posix(): file for file in found.values()}, notes


def _python_rewards(tasks: Mapping[str, TaskSpec]) -> Iterator[tuple[str, str]]:
    for key, task in tasks.items():
        graders: dict[str, GraderSpec] = {"reward": task.reward}
        graders |= {f"reward.parts.{name}": part for name, part in task.reward.parts.items()}
        for place, grader in graders.items():
            if grader.kind == "python":
                yield f"{key}.{place}.value", grader.value


def _file_below(folder: Path, name: str, module: object) -> Path | None:
    """Return the file of a module that was found through the folder itself; None for any other module."""
    file = getattr(module, "__file__", None)
    stem = folder.joinpath(*name.split("."))
    places = (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")
    return Path(file) if file is not None and Path(file) in places else None


def _check_size(files: Mapping[str, Path]) -> None:
    sizes = {path: file.stat().st_size / _MIB for path, file in files.items()}
    total = sum(sizes.values())
    if total > MOST_MIB:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:_NAMED]
        raise SpecError(
            f"the job's files have {total:,.0f} MiB, and {MOST_MIB} MiB can be sent; the largest are "
            + ", ".join(f"{path} ({sizes[path]:,.1f} MiB)" for path in largest),
            "put large files where all nodes of the cluster read them, and write their absolute paths into the spec",
        )


def _outside(key: str, path: str) -> SpecError:
    return SpecError(
        f"{key} is {path!r}, which leads out of the current folder: only files below it are sent",
        "give the command in a folder above the file, with a path that is relative to it, or write an absolute path "
        "that the cluster has",
    )
