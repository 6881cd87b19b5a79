"""``zfleet train``: experts by SVF-RL, one Ray Train run each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zfleet.config.load import load_spec
from zfleet.config.specs import TrainSpec
from zfleet_cli.dry_run import check_on_base
from zfleet_cli.options import Address, AsJson, DryRun, Overrides, SpecFile
from zfleet_cli.output import print_rows, print_spec

if TYPE_CHECKING:
    from zfleet_jobs.train.result import TrainedExpert


def train(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train the experts of a spec and register them; the same run name goes on where it stopped."""
    job = load_spec(spec, TrainSpec, overrides or ())
    # Before any cluster is started: a bad prompt file or reward is found in seconds.
    from zfleet.tasks.build import build_task

    tasks = [build_task(expert.task) for expert in job.experts]
    if dry_run:
        check_on_base(job.base, job.engine, tasks)
        print_spec(job, as_json)
        return
    from zfleet_jobs.train.run import run_train

    trained = run_train(job, address)
    print_rows(trained if as_json else [_line(expert) for expert in trained], f"trained: {job.run}", as_json)


@dataclass(frozen=True)
class _Line:
    """What people want to see of an expert; ``--json`` has all of it."""

    expert: str
    numbers: int
    held_out: int
    accuracy: str
    mean_reward: str
    left_out: int
    seconds: str


def _line(expert: TrainedExpert) -> _Line:
    return _Line(
        expert.reference,
        expert.parameters,
        expert.n,
        f"{expert.accuracy_before:.3f} → {expert.accuracy_after:.3f}",
        f"{expert.reward_before:+.3f} → {expert.reward_after:+.3f}",
        expert.left_out,
        f"{expert.seconds:.0f}" if expert.seconds else "trained before",
    )
