"""``zfleet search``: search the best mixture of experts for a task, with Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zfleet.config.load import load_spec
from zfleet.config.search import SearchSpec
from zfleet_cli.dry_run import check_job
from zfleet_cli.options import Address, AsJson, DryRun, Overrides, SpecFile
from zfleet_cli.output import print_rows, results_alone

if TYPE_CHECKING:
    from zfleet.evaluate.statistics.estimate import Estimate
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
    chosen_by: str
    held_out: str
    over_base: str
    over_single: str
    on_shots: str
    answers: int
    seconds: float


_CHOSEN_BY = {
    "selection": "{} fresh prompts",
    "shots": "the shots",
    "method": "its own best, as the paper",
}


def _row(result: SearchResult) -> _SearchRow:
    return _SearchRow(
        result.reference,
        result.alphas,
        _CHOSEN_BY[result.chosen_by].format(result.selection),
        # As the paper counts, which searches on shots of the test split.
        _text(result.accuracy) + ("" if result.whole_test is None else f" ({result.whole_test:.3f} with the shots)"),
        _text(result.over_base),
        f"{_text(result.over_best_single)} ({result.best_single})",
        f"{result.on_shots:.3f} of {result.shots}, optimistic",
        result.evaluations,
        result.seconds,
    )


def _text(estimate: Estimate | None) -> str:
    return "not asked" if estimate is None else str(estimate)
