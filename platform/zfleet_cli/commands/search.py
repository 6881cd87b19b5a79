"""``zfleet search``: search the best mixture of experts for a task, with Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zfleet.config.load import load_spec
from zfleet.config.specs import SearchSpec
from zfleet_cli.dry_run import check_job
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
    """Search mixtures of experts for a task, and register the best as the champion of its own name."""
    job = load_spec(spec, SearchSpec, overrides or ())
    if not check_job(job, [job.task], dry_run, as_json):
        return
    from zfleet_jobs.search.run import run_search

    with results_alone():
        result = run_search(job, address)
    print_rows([result if as_json else _row(result)], f"found: {job.name}", as_json)


@dataclass(frozen=True)
class _SearchRow:
    """A search in the table; ``--json`` prints the whole result."""

    mixture: str
    alphas: Mapping[str, object]
    shots: int
    accuracy_on_shots: float
    left_out: int
    trials: int
    actors: int
    rows_in_a_batch: int
    seconds: float


def _row(result: SearchResult) -> _SearchRow:
    return _SearchRow(
        result.reference,
        result.alphas,
        result.shots,
        result.accuracy,
        result.left_out,
        result.trials,
        len(result.actors),
        max(result.batch_rows),
        result.seconds,
    )
