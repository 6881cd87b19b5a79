"""``zfleet calibrate``: calibrate a dispatcher, and register it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from zfleet.config.calibrate import CalibrateSpec
from zfleet.config.load import load_spec
from zfleet_cli.dry_run import check_job
from zfleet_cli.options import Address, AsJson, DryRun, Overrides, SpecFile
from zfleet_cli.output import print_rows, results_alone

if TYPE_CHECKING:
    from zfleet_jobs.calibrate.run import CalibrateResult


def calibrate(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Calibrate a dispatcher on labelled prompts, and register it as the champion of its name."""
    job = load_spec(spec, CalibrateSpec, overrides or ())
    if not check_job(job, [label.task for label in job.labels.values()], dry_run, as_json):
        return
    from zfleet_jobs.calibrate.run import run_calibrate

    with results_alone():
        result = run_calibrate(job, address)
    print_rows([result if as_json else _row(result)], f"calibrated: {job.name}", as_json)


@dataclass(frozen=True)
class _CalibrateRow:
    """A dispatcher in the table; ``--json`` prints the whole result."""

    dispatcher: str
    kind: str
    prompts: int | None
    accuracy: float | None
    ece: float | None
    threshold: tuple[float | None, ...]
    coverage: float | None
    risk: float | None
    risk_at_most: float | None
    tokens_a_prompt: float | None
    left_out: int
    seconds: float


def _row(result: CalibrateResult) -> _CalibrateRow:
    measured = {} if result.measured is None else asdict(result.measured)
    return _CalibrateRow(
        dispatcher=result.reference,
        kind=result.kind,
        prompts=measured.get("n"),
        accuracy=measured.get("accuracy"),
        ece=measured.get("ece"),
        threshold=result.thresholds,
        coverage=measured.get("coverage"),
        risk=measured.get("risk"),
        risk_at_most=None if result.facts is None else result.facts.risk_at_most,
        tokens_a_prompt=measured.get("tokens"),
        left_out=result.left_out,
        seconds=result.seconds,
    )
