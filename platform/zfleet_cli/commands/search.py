"""``zfleet search``: the best mixture of experts for a task, by Ray Tune."""

from __future__ import annotations

from zfleet.config.load import load_spec
from zfleet.config.specs import SearchSpec
from zfleet_cli.options import Address, AsJson, DryRun, Overrides, SpecFile
from zfleet_cli.output import print_rows, print_spec


def search(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Search mixtures of experts for a task and register the best as a version of its own."""
    job = load_spec(spec, SearchSpec, overrides or ())
    # Before any cluster is started: a bad prompt file or reward is found in seconds.
    from zfleet.tasks.build import build_task

    build_task(job.task)
    if dry_run:
        print_spec(job, as_json)
        return
    from zfleet_jobs.search import run_search

    print_rows([run_search(job, address)], f"found: {job.name}", as_json)
