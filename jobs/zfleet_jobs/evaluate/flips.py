"""What changed between two ways of a run, or between two runs: the prompts that flipped, with their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zfleet.errors import SpecError
from zfleet.evaluate.cells import Cell
from zfleet.evaluate.matrix import Comparison, comparison
from zfleet.evaluate.replicates import Flip, flips, replicates
from zfleet_jobs.evaluate.cell_files import read_answers
from zfleet_jobs.evaluate.results import Results
from zfleet_jobs.run_folder.storage import Storage


@dataclass(frozen=True)
class FlippedPrompt:
    """A prompt that was answered right by one side more often than by the other.

    Attributes:
        sample: Its id.
        prompt: Its text.
        first, second: How often each side is right on it, over its draws and seeds: from 0 to 1.
        first_answer, second_answer: Of the first draw; None if the texts are not known, as of LoRA.
    """

    sample: str
    prompt: str
    first: float
    second: float
    first_answer: str | None
    second_answer: str | None


@dataclass(frozen=True)
class Changes:
    """Two sides compared on one task.

    Attributes:
        task: The task.
        first, second: What was compared.
        comparison: The first side's accuracy less the second's, paired by prompt; as the only comparison.
        gained, lost: How many prompts the first is right on more often, and less often.
        flipped: Those prompts, the largest differences first.
    """

    task: str
    first: str
    second: str
    comparison: Comparison
    gained: int
    lost: int
    flipped: tuple[FlippedPrompt, ...]


def compare_ways(results: Results, first: str, second: str) -> list[Changes]:
    """Compare two ways of a run on every task that has both.

    Raises:
        SpecError: The run has no such way, or no task with both.
    """
    sides = [_cells_of(results, way) for way in (first, second)]
    tasks = [task for task in results.about.tasks if task in sides[0] and task in sides[1]]
    if not tasks:
        raise SpecError(
            f"no task of {results.run.place} has both {first!r} and {second!r}", f"its ways: {_ways(results)}"
        )
    found = [_changes(task, first, second, results, results, sides[0][task], sides[1][task]) for task in tasks]
    return [one for one in found if one is not None]


def compare_runs(first: Results, second: Results) -> list[Changes]:
    """Compare each way on each task that two runs share, the first run's answers with the second's.

    Raises:
        SpecError: They share none, or no prompt of any.
    """
    found = []
    for way in (way for way in first.about.ways if way in second.about.ways):
        mine, theirs = _cells_of(first, way), _cells_of(second, way)
        for task in (task for task in mine if task in theirs):
            label = f"{way}, {first.about.name}", f"{way}, {second.about.name}"
            found.append(_changes(task, *label, first, second, mine[task], theirs[task]))
    shared = [one for one in found if one is not None]
    if not shared:
        raise SpecError(
            f"{first.run.place} and {second.run.place} have no prompt in common that the same way answered",
            "give runs of the same tasks and ways",
        )
    return shared


def _cells_of(results: Results, way: str) -> Mapping[str, list[Cell]]:
    """Return the cells of a way by task; of several numbers of shots those with the most."""
    own = [cell for cell in results.cells if cell.key.way == way]
    if not own:
        raise SpecError(f"{results.run.place} has no way named {way!r}", f"its ways: {_ways(results)}")
    most = max(cell.key.shots or 0 for cell in own)
    by_task: dict[str, list[Cell]] = {}
    for cell in own:
        if (cell.key.shots or 0) == most:
            by_task.setdefault(cell.key.task, []).append(cell)
    return by_task


def _changes(
    task: str,
    first: str,
    second: str,
    first_run: Results,
    second_run: Results,
    first_cells: Sequence[Cell],
    second_cells: Sequence[Cell],
) -> Changes | None:
    mine, theirs = replicates(first_cells), replicates(second_cells)
    compared = comparison(mine, theirs, second)
    if compared is None:
        return None
    found = flips(mine, theirs)
    texts = [_texts(run.run, cells[0]) for run, cells in ((first_run, first_cells), (second_run, second_cells))]
    return Changes(
        task=task,
        first=first,
        second=second,
        comparison=compared,
        gained=sum(flip.gained for flip in found),
        lost=sum(not flip.gained for flip in found),
        flipped=tuple(_flipped(flip, *texts) for flip in found),
    )


def _texts(run: Storage, cell: Cell) -> dict[str, dict[str, str | None]]:
    ((_, rows),) = read_answers(run, [cell.key]).items()
    return {row["row"]: row for row in rows}


def _flipped(
    flip: Flip, first: Mapping[str, Mapping[str, str | None]], second: Mapping[str, Mapping[str, str | None]]
) -> FlippedPrompt:
    mine, theirs = first[flip.row], second[flip.row]
    return FlippedPrompt(
        sample=str(mine["sample"]),
        prompt=str(theirs["prompt"]),
        first=flip.first,
        second=flip.second,
        first_answer=mine["completion"],
        second_answer=theirs["completion"],
    )


def _ways(results: Results) -> str:
    return ", ".join(results.about.ways)
