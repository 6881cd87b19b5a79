"""``zfleet decompose``: the factors of a base, computed once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from zfleet.config.load import load_job, load_spec
from zfleet.config.specs import ServeSpec
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
        typer.Option(min=0, metavar="GIB", help="What all tasks together may take; else what the cluster has."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be computed, what it takes and what is finished.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compute the factors of a spec's base into the cache, a Ray task per matrix; print their folder and digest.

    Any spec will do, for only its `base` counts; without one: --set base.model=FOLDER. No model is loaded: a task reads
    its matrix from the base's files. A computation that was stopped goes on with what it had not finished. On several
    machines the base's folder and ZFLEET_CACHE must be the same for all.
    """
    # A serve spec is the one kind with a default for everything but the base.
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
    print_rows([_line(one) for one in done.matrices], f"decomposed: {done.base}")
    typer.echo(done.folder)
    typer.echo(f"base {done.base}, targets {done.targets}, digest {done.digest}")


@dataclass(frozen=True)
class _Line:
    """What people want to see of a matrix."""

    matrix: str
    shape: tuple[int, int]
    error: str
    seconds: str


def _line(one: DecomposedMatrix) -> _Line:
    return _Line(
        one.matrix, one.shape, f"{one.error:.1e}", "finished before" if one.seconds is None else f"{one.seconds:.1f}"
    )


@dataclass(frozen=True)
class _PlanLine:
    """What people want to see of a matrix that is planned."""

    matrix: str
    shape: tuple[int, int]
    stored_mib: str
    factors_mib: str
    memory_mib: str
    finished: str


def _plan_line(one: PlannedMatrix) -> _PlanLine:
    sizes = (one.stored_bytes, one.factors_bytes, one.memory_bytes)
    stored, factors, memory = (f"{size / _MIB:,.1f}" for size in sizes)
    return _PlanLine(one.matrix, one.shape, stored, factors, memory, "yes" if one.finished else "no")


def _print_plan(plan: DecomposePlan, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(plan), indent=2))
        return
    print_rows([_plan_line(one) for one in plan.matrices], f"to decompose: {plan.base}")
    todo = [one for one in plan.matrices if not one.finished]
    typer.echo(plan.folder)
    typer.echo(
        f"base {plan.base}, targets {plan.targets}: {len(plan.matrices) - len(todo)} of {len(plan.matrices)} matrices "
        f"finished; the others' factors take {sum(one.factors_bytes for one in todo) / _GIB:.2f} GiB, free are "
        f"{plan.free_bytes / _GIB:.2f}; a task takes up to "
        f"{max((one.memory_bytes for one in todo), default=0) / _GIB:.2f} GiB of memory"
    )
