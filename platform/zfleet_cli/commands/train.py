"""``zfleet train``: experts by SVF-RL, one Ray Train run each."""

from __future__ import annotations

from zfleet.config.load import load_spec
from zfleet.config.specs import TrainSpec
from zfleet_cli.options import Address, AsJson, DryRun, Overrides, SpecFile
from zfleet_cli.output import print_rows, print_spec


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

    for expert in job.experts:
        build_task(expert.task)
    if dry_run:
        print_spec(job, as_json)
        return
    from zfleet_jobs.train import run_train

    print_rows(run_train(job, address), f"trained: {job.run}", as_json)
