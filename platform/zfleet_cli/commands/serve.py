"""``zfleet serve``: the OpenAI-compatible service."""

from __future__ import annotations

from zfleet.config.load import load_spec
from zfleet.config.serve import ServeSpec
from zfleet_cli.dry_run import check_on_base, print_planned, with_engine
from zfleet_cli.options import Address, DryRun, OptionalSpecFile, Overrides


def serve(
    spec: OptionalSpecFile = None,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: DryRun = False,
) -> None:
    """Serve a base and its experts until Ctrl-C."""
    job = load_spec(spec, ServeSpec, overrides or ())
    if dry_run:
        job = with_engine(job)
        folder, _ = check_on_base(job.base, job.engine, ())
        print_planned(job, folder=folder)
        return
    from zfleet_serve.run import run_serve

    run_serve(job, address)
