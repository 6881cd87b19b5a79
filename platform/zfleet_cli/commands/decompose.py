"""``zfleet decompose``: compute the factors of a base, once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from zfleet.config.load import load_job, load_spec
from zfleet.config.serve import ServeSpec
from zfleet_cli.options import Address, AsJson, OptionalSpecFile, Overrides
from zfleet_cli.output import print_rows, results_alone

if TYPE_CHECKING:
    from zfleet.svf.decompose import DecomposedMatrix
    from zfleet_jobs.decompose.plan import DecomposePlan, PlannedMatrix

_MIB, _GIB = 2**20, 2**30


def decompose(
    spec: OptionalSpecFile = None,
    overrides: Overrides = None,
    address: Address = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0, metavar="GIB", help="Memory for all tasks together; by default the cluster's memory."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print which matrices are left to compute, and their sizes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compute the factors of a spec's base into the cache, a Ray task per matrix; print their folder and digest.

    Only the spec's `base` is read; without a spec, give --set base.model=FOLDER. No model is loaded: each task reads
    its matrix from the base's files. A command that was stopped continues with the unfinished matrices. With several
    machines, all must see the same base folder and the same ZFLEET_CACHE.
    """
    # The serve spec is the only kind of spec whose keys all have defaults.
    base = (load_spec(None, ServeSpec, overrides or ()) if spec is None else load_job(spec, overrides or ())).base
    if dry_run:
        from zfleet_jobs.decompose.plan import plan_decompose

        _print_plan(plan_decompose(base), as_json)
        return
    from zfleet_jobs.decompose.run import run_decompose

    with results_alone():
        done = run_decompose(base, address, memory)
    if as_json:
        typer.echo(json.dumps(asdict(done), indent=2))
        return
    print_rows([_row(matrix) for matrix in done.matrices], f"decomposed: {done.base}")
    typer.echo(done.folder)
    typer.echo(f"base {done.base}, targets {done.targets}, digest {done.digest}")


@dataclass(frozen=True)
class _MatrixRow:
    """A decomposed matrix in the table."""

    matrix: str
    shape: tuple[int, int]
    error: str
    seconds: str


def _row(done: DecomposedMatrix) -> _MatrixRow:
    seconds = "finished before" if done.seconds is None else f"{done.seconds:.1f}"
    return _MatrixRow(done.matrix, done.shape, f"{done.error:.1e}", seconds)


@dataclass(frozen=True)
class _PlanRow:
    """A matrix of the plan in the table."""

    matrix: str
    shape: tuple[int, int]
    stored_mib: str
    factors_mib: str
    memory_mib: str
    finished: str


def _plan_row(plan: PlannedMatrix) -> _PlanRow:
    sizes = (plan.stored_bytes, plan.factors_bytes, plan.memory_bytes)
    stored, factors, memory = (f"{size / _MIB:,.1f}" for size in sizes)
    return _PlanRow(plan.matrix, plan.shape, stored, factors, memory, "yes" if plan.finished else "no")


def _print_plan(plan: DecomposePlan, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(plan), indent=2))
        return
    print_rows([_plan_row(matrix) for matrix in plan.matrices], f"to decompose: {plan.base}")
    todo = [matrix for matrix in plan.matrices if not matrix.finished]
    typer.echo(plan.folder)
    typer.echo(
        f"base {plan.base}, targets {plan.targets}: {len(plan.matrices) - len(todo)} of {len(plan.matrices)} matrices "
        f"finished; the others' factors take {sum(matrix.factors_bytes for matrix in todo) / _GIB:.2f} GiB, "
        f"{plan.free_bytes / _GIB:.2f} GiB are free; a task takes up to "
        f"{max((matrix.memory_bytes for matrix in todo), default=0) / _GIB:.2f} GiB of memory"
    )
