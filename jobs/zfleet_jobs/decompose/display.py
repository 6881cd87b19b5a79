"""Progress of a decomposition: a line for each matrix that is finished, and a bar if the output is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from zfleet.svf.decompose import DecomposedMatrix
from zfleet.svf.stored import StoredMatrix


@contextmanager
def decompose_display(base: str, matrices: Sequence[StoredMatrix]) -> Iterator[Callable[[DecomposedMatrix], None]]:
    """Show a display inside the block; yields a function to call with every matrix that is finished."""
    work = {matrix.name: _work(matrix.shape) for matrix in matrices}
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (
        TextColumn("decompose {task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[left]}"),
        TimeElapsedColumn(),
    )
    start = time.perf_counter()
    seen: list[DecomposedMatrix] = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(base, total=sum(work.values()), count=f"0/{len(work)}", left="")

        def show(matrix: DecomposedMatrix) -> None:
            seen.append(matrix)
            count = f"{len(seen)}/{len(work)}"
            computed = sum(work[other.matrix] for other in seen if other.seconds is not None)
            remaining = sum(work.values()) - sum(work[other.matrix] for other in seen)
            left = time_left(time.perf_counter() - start, computed, remaining)
            progress.update(bar, advance=work[matrix.matrix], count=count, left=left)
            took = "finished before" if matrix.seconds is None else f"{matrix.seconds:.1f} s"
            line = f"{count} {matrix.matrix} {list(matrix.shape)} error {matrix.error:.1e}, {took}"
            console.print(f"{line}; {left}" if left else line, markup=False)

        yield show


def time_left(elapsed: float, computed: float, remaining: float) -> str:
    """Estimate in words how long the rest takes at the pace so far; empty if there is no rest, or no pace yet.

    Args:
        elapsed: Seconds since the beginning.
        computed: Work done in them.
        remaining: Work to do.
    """
    if not computed or not remaining:
        return ""
    seconds = round(elapsed * remaining / computed)
    if seconds < 120:
        return f"{seconds} s left"
    if seconds < 7200:
        return f"{seconds // 60} min left"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min left"


def _work(shape: tuple[int, int]) -> float:
    """Return a number that the time of a matrix's SVD is proportional to."""
    m, n = shape
    return float(m) * n * min(m, n)
