"""The results of a run, read from its folder: everything is computed from the answers there, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from zfleet.errors import SamplesError
from zfleet.evaluate.about import About
from zfleet.evaluate.cells import Cell
from zfleet.evaluate.matrix import Matrix, matrix_of
from zfleet.evaluate.report.page import report_files
from zfleet.evaluate.traces import SearchTrace
from zfleet_jobs.evaluate.cell_files import file_name, read_cells
from zfleet_jobs.run_folder.storage import Storage

ABOUT_FILE = "evaluation.json"
TRACES = "traces"


@dataclass(frozen=True, eq=False)
class Results:
    """A finished run.

    Attributes:
        run: Its folder.
        about: What it was.
        cells: Its answers, without texts, in the order of the spec.
        traces: Of its searches.
    """

    run: Storage
    about: About
    cells: Sequence[Cell]
    traces: Sequence[SearchTrace]

    @cached_property
    def matrix(self) -> Matrix:
        """The table.

        Raises:
            JobError: A way has no graded prompt on a task.
        """
        return matrix_of(self.cells, self.about.against)

    def report(self) -> dict[str, bytes]:
        """Render the page and its pictures, by their file names."""
        return report_files(self.about, self.matrix, self.cells, self.traces)


def write_trace(run: Storage, trace: SearchTrace) -> None:
    """Write how a search went.

    Raises:
        JobError: It cannot be written.
    """
    run.folder(TRACES).put(file_name(trace.key).replace(".parquet", ".json"), trace.to_json())


def read_about(run: Storage) -> About:
    """Read what a finished run was.

    Raises:
        SamplesError: There is no finished run in this folder, or its file is damaged.
    """
    data = run.get(ABOUT_FILE)
    if data is None:
        raise SamplesError(
            f"{run.place} has no {ABOUT_FILE}: it is no finished run of `zfleet evaluate`",
            "give the folder that the command printed, or run the evaluation to its end",
        )
    with _whole(run):
        return About.from_json(data)


def read_results(run: Storage) -> Results:
    """Read a finished run.

    Raises:
        SamplesError: There is no finished run in this folder, or a file of it is damaged; names it.
    """
    about, folder = read_about(run), run.folder(TRACES)
    with _whole(folder):
        traces = [SearchTrace.from_json(folder.get(name) or b"") for name in folder.names()]
    order = {way: place for place, way in enumerate(about.ways)}
    cells = sorted(read_cells(run), key=lambda cell: (about.tasks.index(cell.key.task), order[cell.key.way]))
    return Results(run, about, cells, traces)


@contextmanager
def _whole(storage: Storage) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise SamplesError(
            f"a file in {storage.place} is damaged: {str(error).splitlines()[0]}",
            "delete it, and run the evaluation again: its answers are kept",
        ) from error
