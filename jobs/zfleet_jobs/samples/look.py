"""A look at a run's samples, also while it goes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zfleet.errors import SamplesError, SpecError
from zfleet_jobs.samples.choose import Change, Spread, changes, extremes, spreads
from zfleet_jobs.samples.find import RunFiles, find_files
from zfleet_jobs.samples.layout import SampleFile, Training
from zfleet_jobs.samples.read import StepRewritten, read_keys, read_rows

_TRIES = 3


@dataclass(frozen=True)
class SampleQuery:
    """Which samples to look at.

    Attributes:
        expert: Only this expert's samples.
        step: Only this step's.
        last: Only those of this many last steps of each training.
        best: How many of the best.
        worst: How many of the worst.
        changed: How many prompts that changed most.
    """

    expert: str | None = None
    step: int | None = None
    last: int | None = None
    best: int = 5
    worst: int = 5
    changed: int = 5


@dataclass(frozen=True)
class Look:
    """The samples that were chosen; a sample is a mapping of its columns, and run, expert, digest and step.

    Attributes:
        run: The run's name.
        trainings: Each with the spread of its rewards.
        best: Samples, the best first.
        worst: Samples, the worst first.
        changed: Prompts, the most changed first, each with an early and a late sample.
    """

    run: str
    trainings: Sequence[tuple[Training, Spread]]
    best: Sequence[Mapping[str, Any]]
    worst: Sequence[Mapping[str, Any]]
    changed: Sequence[tuple[Change, Mapping[str, Any], Mapping[str, Any]]]


def look_at(run: str, storage: str, query: SampleQuery) -> Look:
    """Choose among the samples that are there now.

    Args:
        run: As ``find_files``.
        storage: As ``find_files``.

    Raises:
        SpecError: No such run, expert or step.
        SamplesError: No samples yet, or a file that is damaged; it is named.
    """
    if query.step is not None and query.last is not None:
        raise SpecError(f"--step is {query.step} and --last is {query.last}", "give one of the two")
    for _ in range(_TRIES):
        run_files = find_files(run, storage, query.expert)
        try:
            return _look(run_files, _of_steps(run_files, query), query)
        except StepRewritten:
            continue
    raise SamplesError(f"steps of run {run_files.run!r} are being written again", "look again when it has caught up")


def _look(run_files: RunFiles, files: Sequence[SampleFile], query: SampleQuery) -> Look:
    keys = read_keys(run_files.system, files)
    every, keys = spreads(keys), keys.graded
    if not every:
        raise SamplesError(
            f"run {run_files.run!r} has no graded sample in these {len(files)} files",
            "the column `reason` of the files says why, where there is an answer",
        )
    best, worst = extremes(keys, query.best, best=True), extremes(keys, query.worst, best=False)
    changed = changes(keys, query.changed)
    pairs = [(change.early_place, change.late_place) for change in changed]
    rows = read_rows(run_files.system, keys, [*best, *worst, *(place for pair in pairs for place in pair)])
    return Look(
        run_files.run,
        [(keys.trainings[spread.training], spread) for spread in every],
        [rows[place] for place in best],
        [rows[place] for place in worst],
        [(change, rows[change.early_place], rows[change.late_place]) for change in changed],
    )


def _of_steps(run_files: RunFiles, query: SampleQuery) -> list[SampleFile]:
    steps: dict[Training, set[int]] = defaultdict(set)
    for file in run_files.files:
        steps[file.training].add(file.step)
    if query.step is not None:
        files = [file for file in run_files.files if file.step == query.step]
        if not files:
            every = set().union(*steps.values())
            raise SpecError(
                f"--step is {query.step}, which run {run_files.run!r} has not written",
                f"choose a step from {min(every)} to {max(every)}",
            )
        return files
    if query.last is None:
        return list(run_files.files)
    last_steps = {training: set(sorted(own)[-query.last :]) for training, own in steps.items()}
    return [file for file in run_files.files if file.step in last_steps[file.training]]
