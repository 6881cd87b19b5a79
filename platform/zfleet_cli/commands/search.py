"""``zfleet search``: the best mixture of experts for a task, by Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zfleet.config.load import load_spec
from zfleet.config.specs import SearchSpec
from zfleet_cli.dry_run import goes_on
from zfleet_cli.options import Address, AsJson, DryRun, Overrides, SpecFile
from zfleet_cli.output import print_rows, results_alone

if TYPE_CHECKING:
    from zfleet_jobs.search.run import SearchResult


def search(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Search mixtures of experts for a task and register the best as the champion of a name of its own."""
    job = load_spec(spec, SearchSpec, overrides or ())
    if not goes_on(job, [job.task], dry_run, as_json):
        return
    from zfleet_jobs.search.run import run_search

    with results_alone():
        found = run_search(job, address)
    print_rows([found if as_json else _line(found)], f"found: {job.name}", as_json)


@dataclass(frozen=True)
class _Line:
    """What people want to see of a search; ``--json`` has all of it."""

    mixture: str
    alphas: Mapping[str, object]
    shots: int
    accuracy_on_shots: float
    left_out: int
    trials: int
    actors: int
    rows_in_a_batch: int
    seconds: float


def _line(found: SearchResult) -> _Line:
    return _Line(
        found.reference,
        found.alphas,
        found.shots,
        found.accuracy,
        found.left_out,
        found.trials,
        len(found.actors),
        max(found.batch_rows),
        found.seconds,
    )
